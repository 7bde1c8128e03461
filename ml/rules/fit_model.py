"""Trains the network of a resolved configuration; the test images are not among the inputs."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hydra.errors import InstantiationException
from omegaconf import DictConfig
from rich.console import Console

from common.files import write_whole
from ml.data.cifar10 import DatasetError
from ml.rules.action import shown_beside
from ml.runs.folder import RunFolder, open_run
from ml.runs.provenance import outside_of_the_build
from ml.training.callbacks import metrics_log
from ml.training.config import ConfigError, DivergedError
from ml.training.fitting import finish, fit

REFUSALS = (ConfigError, DatasetError, DivergedError, InstantiationException)
# Would differ between builds or commits: see seal_model.py.
_OF_THIS_BUILD = ("elapsed_s", "images_per_s", "training_s", "git_revision")


def fit_weights(cfg: DictConfig, train: Path, scratch: Path, weights: Path) -> dict[str, Any]:
    """Trains on `train` and writes the best weights, calibrated.

    Returns:
        A summary without times: `rows` of metrics by epoch, the best epoch, the device.
    """
    cfg = cfg.copy()
    run = open_run(scratch / "run", cfg)
    cfg.data.folder = str(train.absolute().parent)
    cfg.callbacks.system = None  # its samples would be discarded
    if foreign := outside_of_the_build(cfg):
        raise ConfigError(
            f"{', '.join(map(str, foreign))}: code that is no input of this action, by which the "
            "model would not be keyed; add it to the deps of //ml/rules:fit_model"
        )
    fitted = fit(cfg, run, Console(width=100), recorded=False)
    rows = [_repeatable(row) for row in metrics_log(fitted.trainer).rows]
    return _repeatable(finish(cfg, fitted, weights)) | {"rows": rows}


def _repeatable(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key not in _OF_THIS_BUILD}


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("--config", "--train", "--weights", "--history"):
        parser.add_argument(name, type=Path, required=True)
    options = parser.parse_args(arguments)
    cfg = RunFolder(options.config.parent).load_config()
    with TemporaryDirectory(prefix="kiln-run-") as folder, shown_beside(options.weights):
        history = fit_weights(cfg, options.train, Path(folder), options.weights)
    write_whole(options.history, json.dumps(history, indent=2) + "\n")
