"""Leases of the workers: each holds a file lock, which the kernel drops when the worker dies."""

import fcntl
import os
import socket
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from optuna import Study
from optuna.exceptions import ExperimentalWarning
from optuna.storages import fail_stale_trials
from optuna.trial import FrozenTrial, TrialState

from ml.sweep import ledger


class Leases:
    """The workers of one sweep's folder, on all machines that share it."""

    def __init__(self, sweep: Path) -> None:
        self._folder = sweep / "workers"

    @contextmanager
    def held(self, worker: str) -> Iterator[None]:
        """Shows everybody that a worker is alive, until this process ends."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with self._path(worker).open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.write(f"{os.getpid()}\n")  # for people who look for the process
            file.flush()
            yield
            self._path(worker).unlink(missing_ok=True)

    def is_dead(self, worker: str) -> bool | None:
        """None for a worker of another machine's folder, of which nothing can be seen here."""
        try:
            with self._path(worker).open("r") as file:
                # Shared, so that two who look at once do not take each other for the worker.
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return None
        except BlockingIOError:
            return False
        return True

    def nobody_is_alive(self) -> bool:
        """Whether all workers that ever began here are gone."""
        names = [path.stem for path in self._folder.glob("*.lock")]
        return all(self.is_dead(name) is not False for name in names)

    def _path(self, worker: str) -> Path:
        return self._folder / f"{worker}.lock"


def new_worker_name(index: int) -> str:
    """A name that no other process has or had."""
    return f"{socket.gethostname()}-{index}-{os.getpid()}-{time.time_ns() // 1000 % 10**9}"


class Undertaker:
    """Finds trials whose worker is gone and lets another one begin them again.

    At once where the worker's lock can be seen; where a database is all that machines share, after
    ``grace_s`` without a heartbeat. A trial that no worker has put its name to yet is given up
    after ``grace_s`` too.
    """

    def __init__(self, study: Study, leases: Leases, *, retries: int, grace_s: float) -> None:
        self._study = study
        self._leases = leases
        self._retries = retries
        self._grace_s = grace_s
        self._nameless_since: dict[int, float] = {}

    def look(self) -> None:
        """Gives up what is lost now."""
        for trial in self._running():
            if self._is_gone(trial):
                ledger.give_up_lost(self._study, trial, self._retries)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            fail_stale_trials(self._study)  # does nothing for a journal, which has no heartbeats

    def look_first(self) -> None:
        """As `look`, where this folder sees all workers: if none is alive, no trial is.

        It counts as no loss: who died with everybody else was hardly the one to blame.
        """
        if self._leases.nobody_is_alive():
            for trial in self._running():
                ledger.give_up_lost(self._study, trial, self._retries, counts=False)

    def close(self, workers: Sequence[str]) -> None:
        """Gives up the trials of workers that were ended on purpose; it counts as no loss."""
        for trial in self._running():
            if trial.user_attrs.get(ledger.WORKER) in workers:
                ledger.give_up_lost(self._study, trial, self._retries, counts=False)

    def _running(self) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))

    def _is_gone(self, trial: FrozenTrial) -> bool:
        worker = trial.user_attrs.get(ledger.WORKER)
        if worker is not None:
            return self._leases.is_dead(worker) is True
        now = time.monotonic()
        since = self._nameless_since.setdefault(trial.number, now)
        return now - since > self._grace_s
