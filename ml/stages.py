"""The stages of a run in their order: fit, evaluate, export, report."""

import json
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import lightning
import numpy as np
from hydra.utils import instantiate
from numpy.typing import NDArray
from omegaconf import DictConfig
from rich.console import Console
from torch import nn

from common.files import write_whole
from common.terminal import Progress
from ml.artifact.calibration import calibrate
from ml.artifact.export import ExportReport, Provenance, export_artifact, torch_probabilities
from ml.report.page import draw_run
from ml.runs.folder import RunFolder, config_digest
from ml.runs.metrics import best_row
from ml.runs.provenance import git_revision, lock_digest
from ml.training.callbacks import metrics_log, save_weights
from ml.training.config import is_fast_dev_run
from ml.training.fitting import fit, load_best
from ml.training.hardware import describe_device
from ml.training.launch import is_first


def conclude(
    cfg: DictConfig, run: RunFolder, data: Any, network: nn.Module, trainer: lightning.Trainer
) -> dict[str, Any]:
    """Calibrates the network, judges it on the test set, writes every result; the summary last.

    Returns:
        What ``summary.json`` holds: the monitored metric, test scores, times in seconds, sizes in
        bytes.

    Raises:
        ParityError: the exported model answers differently from the network.
    """
    network.cpu().float().eval()
    temperature = calibrate(network, data.validation_images())
    save_weights(network, run.weights)
    answers = _answer_test_set(data, network)
    export = _export(cfg, run, data, network, trainer, answers)
    draw_run(
        run,
        export.metadata,
        export.evaluation,
        rows=metrics_log(trainer).rows,
        images=answers.images,
        labels=answers.labels,
        probabilities=answers.probabilities,
        parameters=sum(weight.numel() for weight in network.parameters()),
    )
    summary = {
        **summarise_training(cfg, trainer),
        **export.as_dict(),
        "temperature": temperature,
    }
    write_whole(run.summary, json.dumps(summary, indent=2) + "\n")
    return summary


def close(cfg: DictConfig, run: RunFolder, trainer: lightning.Trainer) -> dict[str, Any]:
    """Ends a run that only trains: its summary, without the test set being read.

    Returns:
        What ``summary.json`` holds.
    """
    summary = summarise_training(cfg, trainer)
    if is_fast_dev_run(cfg):
        summary["fast_dev_run"] = True
    write_whole(run.summary, json.dumps(summary, indent=2) + "\n")
    return summary


@dataclass(frozen=True)
class _TestAnswers:
    """What the finished network says to the test set, which is read for this alone.

    Attributes:
        images: (N, H, W, 3) uint8, RGB.
        labels: (N,) int64.
        probabilities: (N, K) float32, PyTorch's answers.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    probabilities: NDArray[np.float32]


def _answer_test_set(data: Any, network: nn.Module) -> _TestAnswers:
    """Runs the test images through the network, in fp32 on the CPU as the exported model will."""
    test = data.test_images()
    images = test.pixels.permute(0, 2, 3, 1).contiguous().cpu().numpy()
    probabilities = torch_probabilities(network, images, data.mean, data.std)
    return _TestAnswers(images, test.labels.cpu().numpy(), probabilities)


def _export(
    cfg: DictConfig,
    run: RunFolder,
    data: Any,
    network: nn.Module,
    trainer: lightning.Trainer,
    answers: _TestAnswers,
) -> ExportReport:
    return export_artifact(
        network,
        run.model,
        name=cfg.name,
        classes=data.classes,
        mean=data.mean,
        std=data.std,
        provenance=Provenance(
            git_revision=git_revision(),
            config_digest=config_digest(cfg),
            dataset_digest=data.digest,
            lock_digest=lock_digest(),
            device=describe_device(trainer),
            precision=str(trainer.precision),
        ),
        images=answers.images,
        labels=answers.labels,
        probabilities=answers.probabilities,
    )


def summarise_training(cfg: DictConfig, trainer: lightning.Trainer) -> dict[str, Any]:
    """What can be said of a run before its test: the monitored metric at its best, time, place."""
    log = metrics_log(trainer)
    best = best_row(log.rows, cfg)
    return {
        "name": cfg.name,
        "seed": cfg.seed,
        "monitor": cfg.monitor,
        cfg.monitor: best[cfg.monitor],
        "best_epoch": best["epoch"],
        "epochs": len(log.rows),
        "training_s": log.rows[-1]["elapsed_s"],
        "device": describe_device(trainer),
        "precision": str(trainer.precision),
        "git_revision": git_revision(),
    }


def train(
    cfg: DictConfig,
    run: RunFolder,
    console: Console,
    extra_callbacks: Sequence[lightning.Callback] = (),
) -> dict[str, Any]:
    """One run from its configuration to its summary, continued from its last checkpoint if it has
    one.

    Args:
        run: an existing folder that holds this configuration, see `ml.runs.folder.open_run`.
        extra_callbacks: called after those of the configuration, such as a sweep's pruning; what
            they raise passes through.

    Returns:
        What ``summary.json`` holds: the searched metric, test scores, times in seconds, sizes in
        bytes. Without test scores and model if ``cfg.conclude`` is false.

    Raises:
        ConfigError, InstantiationException, DatasetError, ResumeError: nothing has started.
        SystemExit: Ctrl-C, with `ml.training.launch.INTERRUPTED`; the run can be continued.
    """
    with _mirrored(cfg, run, console):
        fitted = fit(cfg, run, console, extra_callbacks)
        if not is_first():
            return summarise_training(cfg, fitted.trainer)
        if is_fast_dev_run(cfg) or not cfg.get("conclude", True):
            return close(cfg, run, fitted.trainer)
        load_best(fitted.module, fitted.trainer)
        console.print("Evaluating on the test set and exporting ...", highlight=False)
        with Progress("evaluating and exporting", console=console):
            return conclude(cfg, run, fitted.data, fitted.module.network, fitted.trainer)


def _mirrored(cfg: DictConfig, run: RunFolder, console: Console) -> AbstractContextManager[Any]:
    """The logger of a run, at work as long as the context lasts; by default there is none."""
    logger = cfg.get("logger")
    if not logger or is_fast_dev_run(cfg) or not is_first():
        return nullcontext()
    mirror: AbstractContextManager[Any] = instantiate(logger, run=run, console=console)
    return mirror
