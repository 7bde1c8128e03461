"""Release managers that get into each other's way: some hundred of the histories of
benchmarks/histories, of which the program runs as many as one likes."""

from __future__ import annotations

import json
from collections import Counter
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from benchmarks.histories.main import Broken, main, run_history, virtual


@pytest.mark.parametrize("first", range(0, 200, 50))
def test_no_split_is_left_no_version_lost_and_the_ledger_is_linear(first: int) -> None:
    with virtual():
        histories = [run_history(seed) for seed in range(first, first + 50)]
    ends = Counter(result for one in histories for some in one.results for result in [some])
    assert len(ends) > 10  # they differ


def test_a_history_follows_from_its_seed_alone() -> None:
    with virtual():
        assert run_history(7) == run_history(7)


def test_a_manager_that_does_not_write_before_it_moves_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The checks see what they are there for."""
    monkeypatch.setattr("infra.release.rollout.rollout.Rollout._decide_promotion", lambda *_: None)
    with virtual(), pytest.raises(Broken, match="history"):
        [run_history(seed) for seed in range(50)]


def test_the_program_tells_what_became_of_them() -> None:
    console = Console(file=StringIO(), width=120)
    assert main(["--histories", "5"], console) == 0
    said: Any = console.file
    assert "5 histories, 0 broken" in said.getvalue()


def test_a_run_that_was_ended_goes_on_from_what_it_wrote(tmp_path: Path) -> None:
    said = []
    for name, counts in (("parts", ("3", "5")), ("whole", ("5",))):
        for count in counts:
            console = Console(file=StringIO(), width=120)
            file = str(tmp_path / name)
            assert main(["--histories", count, "--out", file], console) == 0
        tally = json.loads((tmp_path / name).read_text())
        said.append({key: value for key, value in tally.items() if key != "took_s"})
    assert said[0] == said[1]
    assert said[0]["next"] == 5
