"""What a finished run folder holds, ready to use: the network with its best weights, its data."""

from pathlib import Path

import numpy as np
import torch
from hydra.utils import instantiate
from numpy.typing import NDArray
from torch import nn

from ml.artifact import load_artifact
from ml.run_folder import ResumeError, RunFolder

CALIBRATION_IMAGES = 512


class TrainedError(ValueError):
    """The folder holds no finished run; the message says what is missing."""


def load_network(path: Path) -> nn.Module:
    """The network of a finished run as it was exported, in eval mode.

    Raises:
        TrainedError: no run folder, or an unfinished one.
        ArtifactError: its model.onnx is missing or damaged.
    """
    run = RunFolder(path)
    try:
        cfg = run.load_config()
    except ResumeError as exc:
        raise TrainedError(str(exc)) from exc
    if not run.weights.is_file():
        raise TrainedError(f"{path} holds no {run.weights.name}: finish it with resume={path}")
    classes = len(load_artifact(run.model).metadata.classes)
    network: nn.Module = instantiate(cfg.network, classes=classes)
    network.load_state_dict(torch.load(run.weights, map_location="cpu", weights_only=True))
    return network.eval()


def calibration_images(path: Path) -> NDArray[np.uint8]:
    """(N, H, W, 3): the first training images of a run's data, which are in random order."""
    data = instantiate(RunFolder(path).load_config().data)
    pixels = data.train_images().pixels[:CALIBRATION_IMAGES]
    return np.ascontiguousarray(pixels.permute(0, 2, 3, 1).cpu().numpy())
