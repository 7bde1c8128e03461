"""One trial: its digest, which identifies repetitions, its training and its measurements."""

import hashlib
import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import fields
from functools import cache
from pathlib import Path

import onnx
from omegaconf import DictConfig, OmegaConf
from optuna import TrialPruned
from optuna.trial import Trial
from rich.console import Console

from common.files import sha256_of
from common.lightning import LightningModule, Trainer, lightning
from ml.artifact.export import to_onnx
from ml.benchmark.latency import Job
from ml.benchmark.rounds import Worker
from ml.data.checks import check_digest, open_data
from ml.runs.folder import RunFolder, best_row, config_digest
from ml.runs.provenance import lock_digest, own_code_digests
from ml.sweep.config import METRICS
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
    "ml/sweep/trial.py",
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
        worker = Worker(Job("onnx", str(path), 1, data.image_size), cache)
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
