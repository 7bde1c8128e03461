"""Runs one trial: trains with pruning, and measures the objectives."""

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import lightning
import onnx
from lightning import LightningModule, Trainer
from omegaconf import DictConfig
from optuna import TrialPruned
from optuna.trial import Trial
from rich.console import Console

from ml.artifact.export import to_onnx
from ml.benchmark.latency import Job
from ml.benchmark.rounds import Worker
from ml.runs.folder import RunFolder
from ml.runs.metrics import best_row
from ml.sweep.config import METRICS
from ml.training.callbacks import metrics_log
from ml.training.fitting import Fitted, fit, load_best

_LATENCY_S = 1.0  # of timing, after warming up


class Reporter(lightning.Callback):
    """Tells the study a metric after every epoch, and ends a trial that lags behind the others.

    Args:
        metric: None reports nothing.
    """

    def __init__(self, trial: Trial, metric: str | None) -> None:
        self._trial = trial
        self._metric = metric
        # Reported before the worker was lost from whom this trial was taken over.
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
    """Trains, or continues what another worker began in this folder.

    Returns:
        A value for every objective; metrics are those of the epoch that ``cfg.monitor`` calls best.

    Raises:
        TrialPruned: it lagged behind.
        ValueError: the configuration does not fit together, or a value is not finite.
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
    """Exports the network and times it on one image, alone in a process with one thread.

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
        worker = Worker(Job("onnx", str(path), 1, data.image_size), cache)
        try:
            point = worker.time(1, _LATENCY_S)
        finally:
            worker.close()
        return {"latency_ms": point.p50_ms, "model_bytes": os.path.getsize(path)}
