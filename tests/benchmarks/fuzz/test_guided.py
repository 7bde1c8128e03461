"""benchmarks/fuzz under guidance: what once failed holds, and a mistake that was planted is
found."""

import json
from pathlib import Path

import pytest

from benchmarks.fuzz.guided import TARGETS, find, run_guided
from benchmarks.fuzz.main import main
from benchmarks.load.servers import ServerFailed
from common.terminal import Progress
from tests.benchmarks.programs import run

KEPT = Path("benchmarks/fuzz/kept")


@pytest.mark.parametrize("name", TARGETS)
def test_every_seed_and_all_that_once_failed_holds(name: str) -> None:
    target = find(TARGETS[name])
    assert target.name == name
    seeds = list(target.seeds())
    kept = [path.read_bytes() for path in sorted((KEPT / name).glob("*"))]
    assert seeds[len(seeds) - len(kept) :] == kept
    for data in seeds:
        target.call(data)


@pytest.mark.parametrize("name", TARGETS)
def test_the_project_makes_its_seeds_the_same_each_time(name: str) -> None:
    target = find(TARGETS[name])
    assert list(target.make_seeds()) == list(target.make_seeds())
    assert max(map(len, target.make_seeds())) <= target.longest
    assert all(path.stat().st_size <= target.longest for path in (KEPT / name).glob("*"))


def test_what_was_kept_belongs_to_a_target() -> None:
    assert {path.name for path in KEPT.iterdir()} <= TARGETS.keys()


def test_a_bounded_run_reaches_more_than_the_seeds(tmp_path: Path) -> None:
    corpus, target = tmp_path / "corpus", tmp_path / "fuzz.json"
    done = run(
        *("benchmarks.fuzz.main", "http_protocol", "--runs", "500", "--time", "5m"),
        *("--corpus", str(corpus), "--json", str(target)),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(target.read_text())
    assert found["holds"]
    assert found["runs"] == 500
    assert 100 < found["first_coverage"] <= found["coverage"]
    assert any(corpus.iterdir())
    assert not Path("fuzz-found").exists()


@pytest.mark.parametrize("name", ["PLANTED", "BEGUN_WRONG"], ids=["by mutation", "by a seed"])
def test_a_mistake_is_found_and_the_input_is_named(name: str) -> None:
    planted = f"tests.benchmarks.fuzz.planted:{name}"
    guided = run_guided(
        planted, seconds=0, runs=100_000, seed=1, corpus=None, progress=Progress("fuzzing")
    )
    assert not guided.holds
    assert [data[:1] for data in guided.found.values()] == [b"K"]
    assert "ZeroDivisionError: the planted mistake" in guided.said


def test_what_cannot_be_fuzzed_is_said() -> None:
    with pytest.raises(ServerFailed, match="no_such_module"):
        run_guided(
            "no_such_module:NAME", seconds=1, runs=1, seed=1, corpus=None, progress=Progress("")
        )


@pytest.mark.parametrize("time", ["10", "0s", "5d", "m", "1.5h"])
def test_a_time_that_makes_no_sense_is_said(
    time: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["fuzz", "codec", "--time", time])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert f"got {time}" in capsys.readouterr().err
