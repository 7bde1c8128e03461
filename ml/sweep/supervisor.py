"""The worker processes of a sweep, and the trials of those that died.

Each worker holds a file lock, which the kernel drops when the worker dies. Optuna's heartbeats need
a database, and its `RetryFailedTrialCallback` counts an interruption as a failure and hands a trial
on under the name of the dead worker; so the lost are found and begun again here, and heartbeats
serve where other machines' locks cannot be seen.
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

from common.processes import python_environment
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

    They hang on our standard input pipe: however this process ends, they end too.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._processes: list[_Process] = []
        self._count = 0
        self.names: list[str] = []

    def start(self) -> None:
        """Starts the plan's number of workers."""
        for _ in range(self._plan.workers):
            self._start_one()

    def running(self) -> int:
        """The number of running workers."""
        return sum(process.popen.poll() is None for process in self._processes)

    def take_dead(self) -> list[tuple[str, int, str]]:
        """Name, exit code and end of the log of those that died since the last call."""
        dead = [p for p in self._processes if p.popen.poll() not in (None, 0)]
        self._processes = [p for p in self._processes if p not in dead]
        return [(p.name, p.popen.returncode, _tail(p.log)) for p in dead]

    def replace_one(self) -> None:
        """Starts another one in place of one that died."""
        self._start_one()

    def end(self) -> None:
        """Ends them at once. What they leave is what a crash would leave: a trial to continue."""
        for process in self._processes:
            process.popen.kill()
        for process in self._processes:
            process.popen.wait()

    def _start_one(self) -> None:
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
                start_new_session=True,  # the terminal's Ctrl-C is not for them
            )
        pipe: IO[str] | None = popen.stdin
        assert pipe is not None
        try:
            pipe.write(self._plan.to_json() + "\n")
            pipe.flush()
        except BrokenPipeError:
            pass  # it died already; its log says why
        self.names.append(name)
        self._processes.append(_Process(name, log, popen))


def _threads(plan: Plan) -> dict[str, str]:
    """Each worker its share of the cores: more threads than cores wait for each other."""
    cores = len(os.sched_getaffinity(0))
    share = plan.threads or max(1, cores // plan.workers)
    return {name: str(share) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}


def _tail(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return "\n".join(lines[-_TAIL_LINES:])


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
        """Gives up the trials whose workers are gone."""
        for trial in self._running():
            if self._is_gone(trial):
                standings.give_up_lost(self._study, trial, self._retries)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            fail_stale_trials(self._study)  # does nothing for a journal, which has no heartbeats

    def look_first(self) -> None:
        """As `look`, where this folder sees all workers: if none is alive, no trial is.

        It counts as no loss: who died with everybody else was hardly the one to blame.
        """
        if self._leases.nobody_is_alive():
            for trial in self._running():
                standings.give_up_lost(self._study, trial, self._retries, counts=False)

    def close(self, workers: Sequence[str]) -> None:
        """Gives up the trials of workers that were ended on purpose; it counts as no loss."""
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
