"""What a finished training is turned into: test scores, artifact, plots, report, summary."""

import json
from dataclasses import dataclass
from typing import Any

import lightning
import numpy as np
from numpy.typing import NDArray
from omegaconf import DictConfig
from torch import nn

from ml.best_epoch import best_row
from ml.calibration import calibrate
from ml.callbacks import metrics_log
from ml.checkpoint_io import save_weights
from ml.config import is_fast_dev_run
from ml.export import ExportReport, Provenance, export_artifact, torch_probabilities
from ml.files import write_whole
from ml.hardware import describe_device
from ml.provenance import git_revision, lock_digest
from ml.run_folder import RunFolder, config_digest
from ml.run_report import draw_run


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
