"""benchmarks/load/cold_start.py: every contender starts, answers and is timed."""

import json
from pathlib import Path

import pytest

from tests.benchmarks.programs import progress, run
from tests.serve.serving import MODEL


def test_starts_of_each_contender_are_timed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KILN_MODEL", str(MODEL))
    target = tmp_path / "starts.json"
    done = run("benchmarks.load.cold_start", "--rounds", "1", "--json", str(target))
    assert done.returncode == 0, done.stderr
    assert len(progress(done.stderr, "measuring starts")) >= 4
    starts = json.loads(target.read_text())
    assert [*starts] == ["bare", "function", "function, exporting"]
    for (start,) in starts.values():
        assert start["cpu_s"] > 0
        assert start["wall_s"] > 0
