"""What was told to the storage stays, whenever a writer dies."""

import multiprocessing
import os
import signal
from pathlib import Path

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml.sweep.settings import SweepError
from ml.sweep.study import JournalLock, cut_unfinished_line, journal, open_study, shown
from tests.ml.sweep.plans import small_plan


def _study_of_two(folder: Path) -> Path:
    """A journal with two finished trials."""
    plan = small_plan(folder)
    study = open_study(plan, create=True)
    for value in (0.25, 0.5):
        trial = study.ask()
        trial.suggest_float("label_smoothing", 0, 0.5)
        study.tell(trial, value)
    return journal(plan)


def _told(folder: Path) -> list[float | None]:
    return [t.value for t in open_study(small_plan(folder), create=True).trials]


@given(st.data())
def test_a_journal_cut_at_any_byte_is_read_and_written_on(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("cut")
    path = _study_of_two(folder)
    whole = path.read_bytes()
    size = data.draw(st.integers(whole.index(b"identity"), len(whole)))
    path.write_bytes(whole[:size])
    before = [value for value in _told(folder) if value is not None]
    assert before == [0.25, 0.5][: len(before)]
    study = open_study(small_plan(folder), create=True)
    trial = study.ask()
    study.tell(trial, 0.75)
    assert _told(folder)[-1] == 0.75
    assert [value for value in _told(folder) if value is not None] == [*before, 0.75]


@pytest.mark.parametrize(
    ("found", "left"), [(b"", b""), (b"a\nb", b"a\n"), (b"a\n", b"a\n"), (b"ab" * 5000, b"")]
)
def test_what_stands_behind_the_last_line_is_cut(found: bytes, left: bytes, tmp_path: Path) -> None:
    path = tmp_path / "journal"
    path.write_bytes(found)
    cut_unfinished_line(path)
    assert path.read_bytes() == left


def _hold(path: Path, taken: "multiprocessing.synchronize.Event") -> None:
    JournalLock(path).acquire()
    taken.set()
    signal.pause()


def test_the_lock_of_a_killed_process_is_free_at_once(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    path.touch()
    spawn = multiprocessing.get_context("spawn")
    taken = spawn.Event()
    holder = spawn.Process(target=_hold, args=(path, taken))
    holder.start()
    assert taken.wait(60)
    assert holder.pid is not None
    os.kill(holder.pid, signal.SIGKILL)
    holder.join()
    lock = JournalLock(path)
    assert lock.acquire()
    lock.release()


def test_another_search_under_the_same_name_is_refused(tmp_path: Path) -> None:
    open_study(small_plan(tmp_path), create=True)
    with pytest.raises(SweepError, match=r"sweep\.name="):
        open_study(small_plan(tmp_path, space={"label_smoothing": "interval(0,1)"}), create=True)
    more = small_plan(tmp_path, n_trials=99, sampler="random", workers=4)
    assert open_study(more, create=True).study_name == "small"


def test_trials_are_kept_in_a_database(tmp_path: Path) -> None:
    plan = small_plan(tmp_path, storage=f"sqlite:///{tmp_path}/sweep.db")
    study = open_study(plan, create=True)
    study.optimize(lambda trial: trial.suggest_float("label_smoothing", 0, 0.5), n_trials=2)
    study._storage.remove_session()
    again = open_study(plan, create=False)
    assert len(again.trials) == 2
    assert again.direction == optuna.study.StudyDirection.MAXIMIZE


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("nonsense", "Could not parse"),
        ("postgresql+psycopg://me:secret@127.0.0.1:1/db", "refused"),
        ("mysql+pymysql://me:secret@127.0.0.1:1/db", "refused"),
        ("oracle+nothing://me:secret@host/db", "Can't load plugin"),
    ],
)
def test_an_address_that_cannot_be_used_is_explained_without_its_password(
    address: str, reason: str, tmp_path: Path
) -> None:
    plan = small_plan(tmp_path, storage=address)
    with pytest.raises(SweepError, match=reason) as refused:
        open_study(plan, create=True)
    assert "secret" not in str(refused.value)
    assert "postgresql+psycopg://user:password@host/database" in str(refused.value)
    assert "secret" not in shown(plan)
