"""The benchmark of batch scoring measures what it says, on files that it makes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.benchmarks.programs import run
from tests.serve.serving import MODEL


def test_each_way_is_measured_on_each_kind_of_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KILN_MODEL", str(MODEL.absolute()))
    path = tmp_path / "score.json"
    small = ("--images", "20", "--rounds", "1", "--workers", "1", "--json", str(path))
    done = run("benchmarks.score.main", *small)
    assert done.returncode == 0, done.stderr
    results = json.loads(path.read_text())["results"]
    assert list(results) == ["small", "photos"]
    for found in results.values():
        assert found["images"] == 20
        assert found["of_by_hand"] == pytest.approx(found["score"] / found["by_hand"])
        assert found["of_model_alone"] == pytest.approx(found["score"] / found["model_alone"])
    assert "score / by hand" in done.stdout
