"""Run folders: created once, found again, never shared by two, never confused."""

import re
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf

from ml.runs.folder import (
    ResumeError,
    config_digest,
    create_run,
    find_unfinished,
    open_unfinished,
)

NOW = datetime(2026, 1, 2, 3, 4, 5)


def _config(**changes: object) -> DictConfig:
    values = {"name": "a run", "seed": 0, "resume": None, "paths": {"runs": "x"}, "sizes": [1, 2]}
    return OmegaConf.create(values | changes)


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    return tmp_path / "runs"


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def test_a_run_is_named_after_its_moment_and_name_and_holds_its_configuration(runs: Path) -> None:
    run = create_run(runs, _config(), NOW)
    assert run.path == runs / "2026-01-02_03-04-05_a-run"
    assert run.load_config() == {"name": "a run", "seed": 0, "sizes": [1, 2]}


def test_two_runs_of_one_second_get_a_folder_each(runs: Path) -> None:
    assert create_run(runs, _config(), NOW).path != create_run(runs, _config(), NOW).path


def test_digest_depends_on_what_is_computed_and_on_nothing_else() -> None:
    elsewhere = _config(resume="auto", paths={"runs": "y"})
    assert config_digest(_config()) == config_digest(
        OmegaConf.create(dict(reversed(list(elsewhere.items()))))
    )
    assert config_digest(_config()) != config_digest(_config(seed=1))


def test_the_newest_unfinished_run_of_the_same_configuration_is_found(runs: Path) -> None:
    create_run(runs, _config(), NOW)
    newest = create_run(runs, _config(), NOW.replace(year=2027))
    create_run(runs, _config(seed=1), NOW.replace(year=2028))
    finished = create_run(runs, _config(), NOW.replace(year=2029))
    finished.summary.write_text("{}")
    assert find_unfinished(runs, [_config()]) == newest


def test_a_run_that_is_at_work_is_left_alone(runs: Path, stack: ExitStack) -> None:
    run = create_run(runs, _config(), NOW)
    stack.enter_context(run.lock())
    assert find_unfinished(runs, [_config()]) is None
    with pytest.raises(ResumeError, match=re.escape(str(run.path))) as busy, run.lock():
        pass
    assert busy.value.__cause__ is None  # which //ml:train would print in its place


def test_no_run_is_found_where_there_is_none(runs: Path) -> None:
    assert find_unfinished(runs, [_config()]) is None


def test_opening_explains_what_is_wrong(runs: Path, tmp_path: Path) -> None:
    with pytest.raises(ResumeError, match=re.escape(str(tmp_path / "gone"))):
        open_unfinished(tmp_path / "gone")
    with pytest.raises(ResumeError, match=r"config\.yaml"):
        open_unfinished(tmp_path)
    run = create_run(runs, _config(), NOW)
    assert open_unfinished(run.path) == run
    run.summary.write_text("{}")
    with pytest.raises(ResumeError, match=re.escape(str(run.path))):
        open_unfinished(run.path)


def test_a_run_that_fails_before_it_begins_leaves_no_folder(runs: Path) -> None:
    run = create_run(runs, _config(), NOW)
    with pytest.raises(ZeroDivisionError), run.discarded_unless_begun():
        raise ZeroDivisionError
    assert not run.path.exists()


def test_a_run_that_fails_later_keeps_its_folder(runs: Path) -> None:
    run = create_run(runs, _config(), NOW)
    run.metrics.write_text("")
    with pytest.raises(ZeroDivisionError), run.discarded_unless_begun():
        raise ZeroDivisionError
    assert run.metrics.exists()
