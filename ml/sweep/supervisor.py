"""The worker processes of a sweep, and recovery of the trials of dead ones.

Each worker holds a file lock, which the kernel releases when the worker dies. Optuna's heartbeats
need a database, and its `RetryFailedTrialCallback` counts an interruption as a failure and passes a
trial on under the dead worker's name; so lost trials are found and restarted here, and heartbeats
are used where other machines' locks are not visible.
"""

import fcntl
import os
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from optuna import Study
from optuna.exceptions import ExperimentalWarning
from optuna.storages import fail_stale_trials
from optuna.trial import FrozenTrial, TrialState

from common.programs import python_environment
from ml.sweep import standings
from ml.sweep.plan import Plan

_TAIL_LINES = 15


@dataclass
class _Process:
    name: str
    log: Path
    popen: subprocess.Popen[str]


class Workers:
    """The workers of this machine.

    They read a pipe from this process, so they end with it, however it ends.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._processes: list[_Process] = []
        self._count = 0
        self.names: list[str] = []

    def start(self) -> None:
        """Starts the plan's number of workers."""
        for _ in range(self._plan.workers):
            self.start_one()

    def running(self) -> int:
        return sum(process.popen.poll() is None for process in self._processes)

    def take_dead(self) -> list[tuple[str, int, str]]:
        """Name, exit code and last log lines of workers that died since the last call."""
        dead = [p for p in self._processes if p.popen.poll() not in (None, 0)]
        self._processes = [p for p in self._processes if p not in dead]
        return [(p.name, p.popen.returncode, _tail(p.log)) for p in dead]

    def end(self) -> None:
        """Kills them. As after a crash, their trials can be continued."""
        for process in self._processes:
            process.popen.kill()
        for process in self._processes:
            process.popen.wait()

    def start_one(self) -> None:
        """Starts a worker more, or the replacement of a dead one."""
        self._count += 1
        name = new_worker_name(self._count)
        log = Path(self._plan.folder) / "workers" / f"{name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("w") as output:
            popen = subprocess.Popen(
                [sys.executable, "-m", "ml.sweep.worker", name],
                env=python_environment() | _threads(self._plan),
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,  # the terminal's Ctrl-C is not meant for them
            )
        pipe: IO[str] | None = popen.stdin
        assert pipe is not None
        try:
            pipe.write(self._plan.to_json() + "\n")
            pipe.flush()
        except BrokenPipeError:
            pass  # it has died; its log says why
        self.names.append(name)
        self._processes.append(_Process(name, log, popen))


def _threads(plan: Plan) -> dict[str, str]:
    """Each worker's share of the cores, since oversubscription would slow all."""
    cores = len(os.sched_getaffinity(0))
    share = plan.threads or max(1, cores // plan.workers)
    return {name: str(share) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}


def _tail(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return "\n".join(lines[-_TAIL_LINES:])


class Leases:
    """The locks of one sweep folder's workers, on all machines that share it."""

    def __init__(self, sweep: Path) -> None:
        self._folder = sweep / "workers"

    @contextmanager
    def held(self, worker: str) -> Iterator[None]:
        """Marks a worker as alive until this process ends."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with self._path(worker).open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.write(f"{os.getpid()}\n")  # for users who look for the process
            file.flush()
            yield
            self._path(worker).unlink(missing_ok=True)

    def is_dead(self, worker: str) -> bool | None:
        """Whether a worker is dead; None for a worker of another machine's folder, which is not
        visible here.
        """
        try:
            with self._path(worker).open("r") as file:
                # A shared lock, so that two concurrent checks do not mistake each other for the
                # worker.
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return None
        except BlockingIOError:
            return False
        return True

    def nobody_is_alive(self) -> bool:
        """Whether all workers that ever started here are gone."""
        names = [path.stem for path in self._folder.glob("*.lock")]
        return all(self.is_dead(name) is not False for name in names)

    def _path(self, worker: str) -> Path:
        return self._folder / f"{worker}.lock"


def new_worker_name(index: int) -> str:
    return f"{socket.gethostname()}-{index}-{os.getpid()}-{time.time_ns() // 1000 % 10**9}"


class Reaper:
    """Finds trials whose worker is gone and requeues them.

    Immediately if the worker's lock is visible; if machines share only a database, after
    ``grace_s`` without a heartbeat. A trial not yet claimed by a worker is given up after
    ``grace_s``, too.
    """

    def __init__(self, study: Study, leases: Leases, *, retries: int, grace_s: float) -> None:
        self._study = study
        self._leases = leases
        self._retries = retries
        self._grace_s = grace_s
        self._nameless_since: dict[int, float] = {}

    def reap(self) -> None:
        """Gives up trials whose workers are gone."""
        for trial in self._running():
            if self._is_gone(trial):
                standings.give_up_lost(self._study, trial, self._retries)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            fail_stale_trials(self._study)  # no effect on a journal, which has no heartbeats

    def reap_leftovers(self) -> None:
        """Like `reap`, at start-up, if this folder shows all workers: if none is alive, no trial is
        running.

        Does not count as a loss, since the trial was hardly the cause.
        """
        if self._leases.nobody_is_alive():
            for trial in self._running():
                standings.give_up_lost(self._study, trial, self._retries, counts=False)

    def close(self, workers: Sequence[str]) -> None:
        """Gives up the trials of deliberately stopped workers, which does not count as a loss."""
        for trial in self._running():
            if trial.user_attrs.get(standings.WORKER) in workers:
                standings.give_up_lost(self._study, trial, self._retries, counts=False)

    def _running(self) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))

    def _is_gone(self, trial: FrozenTrial) -> bool:
        worker = trial.user_attrs.get(standings.WORKER)
        if worker is not None:
            return self._leases.is_dead(worker) is True
        now = time.monotonic()
        since = self._nameless_since.setdefault(trial.number, now)
        return now - since > self._grace_s
