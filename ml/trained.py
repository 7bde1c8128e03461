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

_PREFIX = "network."


class TrainedError(ValueError):
    """The folder holds no finished run; the message says what is missing."""


def load_network(path: Path) -> nn.Module:
    """The network of a run with its best weights, in eval mode.

    Raises:
        TrainedError: no run folder, or no checkpoint in it.
        ArtifactError: its model.onnx is missing or damaged.
    """
    run = RunFolder(path)
    checkpoint = run.checkpoints / "best.ckpt"
    try:
        cfg = run.load_config()
    except ResumeError as exc:
        raise TrainedError(str(exc)) from exc
    if not checkpoint.is_file():
        raise TrainedError(f"{path} holds no {checkpoint.relative_to(path)}: it trained no epoch")
    classes = len(load_artifact(run.model).metadata.classes)
    network: nn.Module = instantiate(cfg.network, classes=classes)
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)["state_dict"]
    network.load_state_dict(
        {name.removeprefix(_PREFIX): v for name, v in state.items() if name.startswith(_PREFIX)}
    )
    return network.eval()


def calibration_images(path: Path) -> NDArray[np.uint8]:
    """(N, H, W, 3): the first training images of a run's data, which are in random order."""
    data = instantiate(RunFolder(path).load_config().data)
    pixels = data.train_images().pixels[:CALIBRATION_IMAGES]
    return np.ascontiguousarray(pixels.permute(0, 2, 3, 1).cpu().numpy())
