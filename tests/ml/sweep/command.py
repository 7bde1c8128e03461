"""The program as a user starts it, in a workspace of its own, on a few images that are not real."""

import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import optuna
from optuna.storages import BaseStorage, RDBStorage
from optuna.trial import FrozenTrial
from rich.console import Console

from ml.sweep import worker as worker_module
from ml.sweep.main import main
from ml.sweep.plan import Plan
from ml.sweep.standings import outcome
from ml.sweep.study import open_storage
from tests.helpers.program import Program
from tests.ml.data.small_dataset import write_dataset
from tests.ml.sweep.plans import small_plan

if TYPE_CHECKING:
    import pytest

_TRIAL = (
    *("sweep=base", "sweep.name=small", "experiment=smoke", "label_smoothing=interval(0,0.5)"),
    *("data.train_size=null", "data.validation_size=50", "data.batch_size=10", "data.sizes=[16]"),
    *("data.size_milestones=[]", "network.widths=[8,8,8]", "trainer.accelerator=cpu"),
    *("trainer.max_epochs=3", "trainer.precision=32-true", "sweep.threads=1"),
    *("sweep.pruner=none", "sweep.startup_trials=2"),
)


class WorkersHere:
    """One worker, in this process: those in processes of their own are for test_search.py."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self.names = ["here"]

    def start(self) -> None:
        from ml.sweep.worker import Worker  # torch: a test of processes needs none of it

        Worker(self._plan, "here").work()

    def running(self) -> int:
        return 0

    def end(self) -> None:
        pass


class SweepWorkspace:
    """A user's workspace; ``storage`` is what the study is in, None for the journal."""

    def __init__(self, path: Path, storage: str | None = None) -> None:
        self.path = path
        self.storage = storage
        self.folder = path / "multirun" / "small"
        self._dataset = write_dataset(path / "dataset", train=300, test=100)
        self._storage: BaseStorage | None = None
        self._processes: list[Program] = []

    def start(self, *arguments: str, workspace: Path | None = None) -> Program:
        """The program, as `bazel run` would start it; in another folder for another machine."""
        workspace = workspace or self.path
        environment = {
            **os.environ,
            "BUILD_WORKSPACE_DIRECTORY": str(workspace),
            "KILN_CIFAR10": str(self._dataset),
            "PYTHONPATH": os.pathsep.join(sys.path),
        }
        storage = [f"sweep.storage={self.storage}"] if self.storage else []
        process = Program(
            "ml.sweep.main", *_TRIAL, *storage, *arguments, cwd=workspace, env=environment
        )
        self._processes.append(process)
        return process

    def run_here(self, patch: "pytest.MonkeyPatch", *arguments: str) -> int:
        """The command and one worker in this process; returns the exit code."""
        patch.setattr("ml.sweep.search.Workers", WorkersHere)
        patch.setenv("BUILD_WORKSPACE_DIRECTORY", str(self.path))
        patch.setenv("KILN_CIFAR10", str(self._dataset))
        worker_module._known.clear()
        return main([*_TRIAL, *arguments], Console(file=io.StringIO(), width=140))

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """The same, to its end."""
        return self.start(*arguments).finish(500)

    def end(self) -> None:
        """Ends what a failed test left."""
        for process in self._processes:
            if process.poll() is None:
                process.kill()
                process.communicate()
        if isinstance(self._storage, RDBStorage):
            self._storage.remove_session()
            self._storage.engine.dispose()

    def trials(self) -> list[FrozenTrial]:
        """The trials as they are now; none as long as there is no study."""
        if self._storage is None:
            self._storage = open_storage(small_plan(self.path, storage=self.storage))
        try:
            study = optuna.load_study(study_name="small", storage=self._storage)
        except KeyError:
            return []
        return study.trials

    def outcomes(self) -> list[str]:
        """What became of the trials."""
        return [outcome(trial) for trial in self.trials()]

    def wait_until(
        self, holds: Callable[[list[FrozenTrial]], bool], process: subprocess.Popen[str]
    ) -> list[FrozenTrial]:
        """The trials, once they are as wanted."""
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline and process.poll() is None:
            if holds(trials := self.trials()):
                return trials
            time.sleep(0.1)
        raise AssertionError(f"{self.outcomes()}\n{process.communicate(timeout=5)[1]}")

    def log(self) -> str:
        """What all workers said, whichever began first."""
        return "".join(path.read_text() for path in sorted(self.folder.glob("workers/*.log")))


def kill_worker(sweep: Path, trial: FrozenTrial) -> None:
    """Ends the process that runs a trial, as a crash would."""
    lock = sweep / "workers" / f"{trial.user_attrs['worker']}.lock"
    os.kill(int(lock.read_text()), signal.SIGKILL)
