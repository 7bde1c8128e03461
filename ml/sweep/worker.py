"""A worker process of a sweep: takes trials from the study until none are left.

Started by `ml.sweep.search` with its name as argument and the plan as the first line of standard
input, which stays open: when it closes, its parent is gone, and the worker exits.
"""

import hashlib
import json
import logging
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections.abc import Sequence
from dataclasses import fields
from functools import cache
from pathlib import Path

import onnx
import optuna
from omegaconf import DictConfig, OmegaConf
from optuna import TrialPruned
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, Trial, TrialState
from rich.console import Console

from common.files import sha256_of, write_whole
from common.lightning import LightningModule, Trainer, lightning
from ml.artifact.export import to_onnx
from ml.benchmark import rounds
from ml.benchmark.latency import Job
from ml.data.checks import check_digest, open_data, unwrapped
from ml.data.cifar10 import DatasetError
from ml.runs.folder import RunFolder, best_row, config_digest, open_run
from ml.runs.provenance import lock_digest, own_code_digests
from ml.sweep import standings
from ml.sweep.plan import Plan
from ml.sweep.settings import METRICS, Space, SweepError, configuration
from ml.sweep.study import open_study
from ml.sweep.supervisor import Leases
from ml.training.callbacks import metrics_log
from ml.training.config import DataConfig
from ml.training.fitting import Fitted, fit, load_best

_LATENCY_S = 1.0  # of timing, after warm-up
ROOT = Path(__file__).absolute().parents[2]

# Code that runs in a trial: of the sweep, what trains.
_CODE = (
    "common/*.py",
    "common/model/*.py",
    "ml/artifact/*.py",
    "ml/benchmark/latency.py",
    "ml/data/*.py",
    "ml/runs/*.py",
    "ml/stages.py",
    "ml/sweep/worker.py",
    "ml/training/*.py",
)

# Batching options of a data module, which do not affect what its files hold.
_BATCHES = {field.name for field in fields(DataConfig)} - {"_target_", "folder"}


class Reporter(lightning.Callback):
    """Reports a metric to the study after every epoch, and prunes a lagging trial.

    Args:
        metric: None disables reports.
    """

    def __init__(self, trial: Trial, metric: str | None) -> None:
        self._trial = trial
        self._metric = metric
        # Reported by the lost worker from whom this trial was taken over.
        self._known = set(trial.study.trials[trial.number].intermediate_values)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._metric is None:
            return
        epoch = trainer.current_epoch + 1
        if self._metric not in trainer.callback_metrics:
            names = ", ".join(sorted(trainer.callback_metrics))
            raise ValueError(f"training logs no {self._metric}, but {names}")
        value = float(trainer.callback_metrics[self._metric])
        if epoch not in self._known:
            self._trial.report(value, epoch)
        if epoch != trainer.max_epochs and self._trial.should_prune():
            raise TrialPruned(f"{self._metric} {value:.4f} after epoch {epoch}")


def run_trial(
    cfg: DictConfig, run: RunFolder, trial: Trial, objectives: Sequence[str], console: Console
) -> list[float]:
    """Trains, or continues what another worker started in this folder.

    Returns:
        A value per objective; metrics are those of the best epoch by ``cfg.monitor``.

    Raises:
        TrialPruned: it was pruned.
        ValueError: the configuration is inconsistent, or a value is not finite.
    """
    is_single = len(objectives) == 1 and objectives[0] in METRICS
    reporter = Reporter(trial, objectives[0] if is_single else None)
    fitted = fit(cfg, run, console, [reporter])
    rows = metrics_log(fitted.trainer).rows
    measured = best_row(rows, cfg) | {"training_s": rows[-1]["elapsed_s"]}
    if {"latency_ms", "model_bytes"} & set(objectives):
        measured |= measure_export(fitted)
    values = [float(measured[name]) for name in objectives]
    for name, value in zip(objectives, values, strict=True):
        if value != value or abs(value) == float("inf"):
            raise ValueError(f"{name} is {value}: training diverged")
    return values


def measure_export(fitted: Fitted) -> dict[str, float]:
    """Exports the network and times it on one image, in a separate process with one thread.

    Returns:
        ``latency_ms``, the median, and ``model_bytes``.
    """
    load_best(fitted.module, fitted.trainer)
    data = fitted.data
    with tempfile.TemporaryDirectory(prefix="kiln-latency-") as folder:
        path = Path(folder) / "model.onnx"
        onnx.save(to_onnx(fitted.module.network, data.image_size, data.mean, data.std), path)
        cache = Path(folder) / "cache"
        cache.mkdir()
        worker = rounds.Worker(Job("onnx", str(path), 1, data.image_size), cache)
        try:
            point = worker.time(1, _LATENCY_S)
        finally:
            worker.close()
        return {"latency_ms": point.p50_ms, "model_bytes": os.path.getsize(path)}


def trial_digest(cfg: DictConfig) -> str:
    """SHA-256 in hex of a trial: equal for trials that would compute the same."""
    parts = [
        config_digest(cfg),
        data_digest(cfg),
        code_digest(),
        json.dumps(own_code_digests(cfg)),
        lock_digest(),
    ]
    if cfg.get("init_from"):
        parts.append(sha256_of(Path(cfg.init_from)))
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()


def data_digest(cfg: DictConfig) -> str:
    """The digest of a configuration's dataset, from its data module."""
    plain = OmegaConf.to_container(cfg.data, resolve=True)
    assert isinstance(plain, dict)
    which = {key: value for key, value in plain.items() if key not in _BATCHES}
    key = json.dumps(which, sort_keys=True)
    if key not in _known:  # reads the whole dataset
        _known[key] = check_digest(open_data(cfg).digest)
    return _known[key]


_known: dict[str, str] = {}


@cache
def code_digest() -> str:
    """SHA-256 in hex of the sources that training may use."""
    files = sorted(path for pattern in _CODE for path in ROOT.glob(pattern))
    digest = hashlib.sha256()
    for path in files:
        content = path.read_bytes()
        digest.update(f"{path.relative_to(ROOT)} {len(content)}\n".encode() + content)
    return digest.hexdigest()


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
