"""A trial whose worker died is begun again, and only such a trial."""

import multiprocessing
import os
import signal
import sqlite3
from pathlib import Path

import optuna
import pytest

from ml.sweep import standings
from ml.sweep.study import open_study
from ml.sweep.supervisor import Leases, Reaper, new_worker_name
from tests.ml.sweep.plans import small_plan


def _begin(study: optuna.Study, worker: str | None = None) -> optuna.Trial:
    trial = study.ask()
    trial.suggest_float("label_smoothing", 0, 0.5)
    if worker:
        trial.set_user_attr(standings.WORKER, worker)
    return trial


def _outcomes(study: optuna.Study) -> list[str]:
    return [standings.outcome(trial) for trial in study.trials]


def _hold(folder: Path, worker: str, held: "multiprocessing.synchronize.Event") -> None:
    with Leases(folder).held(worker):
        held.set()
        signal.pause()


@pytest.fixture
def study(tmp_path: Path) -> optuna.Study:
    return open_study(small_plan(tmp_path), create=True)


@pytest.fixture
def reaper(study: optuna.Study, tmp_path: Path) -> Reaper:
    return Reaper(study, Leases(tmp_path), retries=2, grace_s=1000)


def test_no_two_workers_have_the_same_name() -> None:
    assert len({new_worker_name(1) for _ in range(2)}) == 2


def test_the_trial_of_a_killed_worker_begins_again(
    study: optuna.Study, reaper: Reaper, tmp_path: Path
) -> None:
    spawn = multiprocessing.get_context("spawn")
    held = spawn.Event()
    process = spawn.Process(target=_hold, args=(tmp_path, "w", held))
    process.start()
    assert held.wait(60)
    _begin(study, "w")
    reaper.reap()
    assert _outcomes(study) == ["running"]
    assert not Leases(tmp_path).nobody_is_alive()
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    reaper.reap()
    assert _outcomes(study) == ["lost", "waiting"]
    reaper.reap()
    assert _outcomes(study) == ["lost", "waiting"]


def test_a_worker_that_nobody_here_knows_is_left_to_its_heartbeats(
    study: optuna.Study, reaper: Reaper
) -> None:
    _begin(study, "of-another-machine")
    reaper.reap()
    assert _outcomes(study) == ["running"]


def test_a_trial_without_a_name_is_given_time(study: optuna.Study, tmp_path: Path) -> None:
    _begin(study)
    patient = Reaper(study, Leases(tmp_path), retries=2, grace_s=1000)
    patient.reap()
    patient.reap()
    assert _outcomes(study) == ["running"]
    hasty = Reaper(study, Leases(tmp_path), retries=2, grace_s=-1)
    hasty.reap()
    assert _outcomes(study) == ["lost", "waiting"]


def test_when_nobody_is_alive_no_trial_is(study: optuna.Study, reaper: Reaper) -> None:
    _begin(study)
    _begin(study, "gone")
    reaper.reap_leftovers()
    assert _outcomes(study) == ["lost", "lost", "waiting", "waiting"]
    assert study.trials[2].user_attrs["attempt"] == 0


def test_trials_of_workers_that_were_ended_on_purpose_lose_no_attempt(
    study: optuna.Study, reaper: Reaper
) -> None:
    _begin(study, "ours")
    _begin(study, "theirs")
    reaper.close(["ours"])
    assert _outcomes(study) == ["lost", "running", "waiting"]
    assert study.trials[2].user_attrs["attempt"] == 0


@pytest.mark.filterwarnings("ignore:Heartbeat of storage is supposed")  # by a worker
def test_a_trial_of_another_machine_is_lost_when_its_heart_stops(tmp_path: Path) -> None:
    database = tmp_path / "sweep.db"
    study = open_study(small_plan(tmp_path, storage=f"sqlite:///{database}"), create=True)
    trial = _begin(study, "of-another-machine")
    study._storage.record_heartbeat(trial._trial_id)  # type: ignore[attr-defined]
    reaper = Reaper(study, Leases(tmp_path), retries=2, grace_s=1000)
    reaper.reap()
    assert _outcomes(study) == ["running"]
    with sqlite3.connect(database) as connection:  # an hour passes
        connection.execute("update trial_heartbeats set heartbeat = datetime(heartbeat, '-1 hour')")
    connection.close()
    reaper.reap()
    assert _outcomes(study) == ["lost", "waiting"]
    assert study.trials[1].user_attrs["origin"] == 0
    study._storage.remove_session()
