"""Trains the network of a resolved configuration; the test images are not among the inputs."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hydra.errors import InstantiationException
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from common.files import write_whole
from ml.artifact.calibration import calibrate
from ml.data.cifar10 import DatasetError
from ml.rules.action import shown_beside
from ml.runs.folder import open_run
from ml.runs.metrics import best_row
from ml.training.callbacks import metrics_log, save_weights
from ml.training.config import ConfigError
from ml.training.fitting import Fitted, fit, load_best
from ml.training.hardware import describe_device

REFUSALS = (ConfigError, DatasetError, InstantiationException)
_OF_THE_CLOCK = ("elapsed_s", "images_per_s")  # would differ from build to build


def fit_weights(cfg: DictConfig, train: Path, scratch: Path, weights: Path) -> dict[str, Any]:
    """Trains on `train`, writes the calibrated best weights.

    Returns:
        How it went, without times: `rows` of metrics by epoch, the best epoch, the device.
    """
    cfg = cfg.copy()
    run = open_run(scratch / "run", cfg)
    cfg.data.folder = str(train.absolute().parent)
    cfg.callbacks.system = None  # nobody would see what it samples
    fitted = fit(cfg, run, Console(width=100), recorded=False)
    load_best(fitted.module, fitted.trainer)
    network = fitted.module.network.cpu().float().eval()
    temperature = calibrate(network, fitted.data.validation_images())
    save_weights(network, weights)
    return _history(cfg, fitted, temperature)


def _history(cfg: DictConfig, fitted: Fitted, temperature: float) -> dict[str, Any]:
    timed = metrics_log(fitted.trainer).rows
    rows = [{key: row[key] for key in row if key not in _OF_THE_CLOCK} for row in timed]
    best = best_row(rows, cfg)
    return {
        "monitor": cfg.monitor,
        cfg.monitor: best[cfg.monitor],
        "best_epoch": best["epoch"],
        "epochs": len(rows),
        "temperature": temperature,
        "device": describe_device(fitted.trainer),
        "precision": str(fitted.trainer.precision),
        "rows": rows,
    }


def main(arguments: Sequence[str]) -> None:
    """Entry point of the action."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("--config", "--train", "--weights", "--history"):
        parser.add_argument(name, type=Path, required=True)
    options = parser.parse_args(arguments)
    cfg = OmegaConf.load(options.config)
    assert isinstance(cfg, DictConfig)
    with TemporaryDirectory(prefix="kiln-run-") as folder, shown_beside(options.weights):
        history = fit_weights(cfg, options.train, Path(folder), options.weights)
    write_whole(options.history, json.dumps(history, indent=2) + "\n")
