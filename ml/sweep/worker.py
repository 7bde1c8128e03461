"""A worker process of a sweep: takes trials from the study until none are left.

Started by `ml.sweep.search` with its name as argument and the plan as the first line of standard
input, which stays open: when it closes, its parent is gone, and the worker exits.
"""

import json
import logging
import os
import shutil
import signal
import sys
import threading
import time
import traceback
import warnings
from pathlib import Path

import optuna
from omegaconf import DictConfig
from optuna import TrialPruned
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, Trial, TrialState
from rich.console import Console

from common.files import write_whole
from ml.data.checks import open_data, unwrapped
from ml.data.cifar10 import DatasetError
from ml.runs.folder import RunFolder, open_run
from ml.sweep import standings
from ml.sweep.config import SweepError, configuration
from ml.sweep.plan import Plan
from ml.sweep.space import Space
from ml.sweep.study import open_study
from ml.sweep.supervisor import Leases
from ml.sweep.trial import data_digest, run_trial, trial_digest

REFUSED = 2  # exit code: an error that another worker would have, too
_POLL_S = 0.5


class SurplusTrial(Exception):
    """The study has enough trials without this one."""


class Worker:
    """Runs a plan's trials in this process."""

    def __init__(self, plan: Plan, name: str) -> None:
        self.plan = plan
        self.name = name
        self.study = open_study(plan, create=False)
        self.space: Space = plan.parse_space()
        self.rules = standings.Rules.of(plan, self.space)
        self.console = Console(width=120)

    def work(self) -> None:
        """Takes trials until all are used up, by any worker."""
        while True:
            counts = self.rules.counts(self.study.get_trials(deepcopy=False))
            if counts.is_done:
                return
            if counts.has_room:
                self._take_one()
            else:  # a trial running elsewhere may still be lost
                time.sleep(_POLL_S)

    def _take_one(self) -> None:
        try:
            self.study.optimize(self.objective, n_trials=1, catch=(Exception,))
        except (UpdateFinishedTrialError, ValueError) as exc:
            # This worker was considered dead, and its trial with it.
            self.console.print(f"the result came too late: {exc}")

    def objective(self, trial: Trial) -> list[float]:
        """The values of a trial: trained, or those of an identical trial."""
        trial.set_user_attr(standings.WORKER, self.name)
        if self.rules.is_surplus(self.study.get_trials(deepcopy=False), trial.number):
            trial.set_user_attr(standings.SURPLUS, True)
            raise SurplusTrial
        try:
            return self._values(trial)
        except TrialPruned:
            raise
        except Exception as exc:
            shown = unwrapped(exc)
            trial.set_user_attr(standings.ERROR, f"{type(shown).__name__}: {shown}"[:500])
            traceback.print_exc()
            raise

    def _values(self, trial: Trial) -> list[float]:
        cfg = self.plan.compose_trial(self.space.suggest(trial))
        digest = trial_digest(cfg)
        trial.set_user_attr(standings.DIGEST, digest)
        if same := self._finished_twin(trial.number, digest):
            return self._reuse(trial, same)
        number = trial.user_attrs.get(standings.ORIGIN, trial.number)
        run = open_trial_run(self.plan.trial_folder(number), cfg, digest)
        self.console.print(f"\nTrial {trial.number} in {run.path}: {trial.params}")
        with run.lock():
            if known := read_values(run):  # its worker died before it could report
                return known
            names = [name for name, _ in self.plan.objectives]
            values = run_trial(cfg, run, trial, names, self.console)
            write_values(run, values)
            return values

    def _finished_twin(self, number: int, digest: str) -> FrozenTrial | None:
        while True:
            same = standings.twin(self.study.get_trials(deepcopy=False), number, digest)
            if same is None or same.state != TrialState.RUNNING:
                return same
            time.sleep(_POLL_S)

    def _reuse(self, trial: Trial, same: FrozenTrial) -> list[float]:
        trial.set_user_attr(standings.REUSED, same.number)
        self.console.print(f"\nTrial {trial.number} is the same as trial {same.number}")
        if same.state == TrialState.PRUNED:
            for step, value in same.intermediate_values.items():
                trial.report(value, step)
            raise TrialPruned
        return list(same.values)


def open_trial_run(folder: Path, cfg: DictConfig, digest: str) -> RunFolder:
    """The run in a trial's folder: new, unless an identical one was started there."""
    marker = folder / "digest"
    if folder.exists() and not (marker.is_file() and marker.read_text() == digest):
        shutil.rmtree(folder)
    write_whole(marker, digest)
    return open_run(folder, cfg)


def write_values(run: RunFolder, values: list[float]) -> None:
    """Stores the values of a trained trial until the study has them."""
    write_whole(run.path / "values.json", json.dumps(values) + "\n")


def read_values(run: RunFolder) -> list[float] | None:
    """Reads what `write_values` wrote."""
    path = run.path / "values.json"
    if not path.is_file():
        return None
    values: list[float] = json.loads(path.read_text(encoding="utf-8"))
    return values


def check_data(plan: Plan) -> None:
    """Rejects an unreadable dataset early; values that trials may still change are left to them."""
    if any(key.lstrip("+") in ("data", "data._target_", "data.folder") for key in plan.space):
        return
    try:
        cfg = plan.compose_trial([])
        data_digest(cfg)
        open_data(cfg).train_images()
    except Exception as exc:  # anything may be raised by a user's dataset
        cause = unwrapped(exc)
        if isinstance(cause, ValueError) and not isinstance(cause, DatasetError):
            return
        raise SweepError(f"the dataset cannot be read: {type(cause).__name__}: {cause}") from exc


def _die_with_parent() -> None:
    """Exits at once when standard input closes."""

    def watch() -> None:
        sys.stdin.read()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is handled by the parent
    plan = Plan.from_json(sys.stdin.readline())
    _die_with_parent()
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore")  # the log is for the trainings' output
    code = 0
    try:
        with Leases(Path(plan.folder)).held(sys.argv[1]), configuration(plan.config_dirs):
            check_data(plan)
            Worker(plan, sys.argv[1]).work()
    except SweepError as exc:
        print(exc)
        code = REFUSED
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # the thread reading standard input would block the exit


if __name__ == "__main__":
    main()
