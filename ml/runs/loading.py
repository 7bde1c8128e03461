"""Loads the network and data of a trained run."""

import pickle  # nosec B403 # for the name of an error
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from numpy.typing import NDArray
from omegaconf import DictConfig, OmegaConf
from torch import nn

from ml.artifact.artifact import load_artifact
from ml.runs.folder import ResumeError, RunFolder

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


class WeightsError(ValueError):
    """The file holds no weights of this network."""


@dataclass(frozen=True)
class HeldOut:
    """What a finished network is judged by.

    Attributes:
        images: (N, H, W, 3) uint8, RGB.
        labels: (N,) int64.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]


def load_config(path: Path) -> DictConfig:
    """The resolved configuration in a file."""
    cfg = OmegaConf.load(path)
    assert isinstance(cfg, DictConfig)
    return cfg


def make_data(cfg: DictConfig, folder: Path | None = None) -> Any:
    """The data module of a configuration; `folder` holds train.bin and test.bin, if not the usual
    places."""
    return instantiate(cfg.data, **({} if folder is None else {"folder": str(folder.absolute())}))


def make_network(cfg: DictConfig, classes: int, state: dict[str, Any]) -> nn.Module:
    """The network of a configuration with these weights, in eval mode.

    Raises:
        WeightsError: they are of another network.
    """
    network: nn.Module = instantiate(cfg.network, classes=classes)
    try:
        network.load_state_dict(state)
    except RuntimeError as exc:
        raise WeightsError(f"these weights are of another network: {exc}") from exc
    return network.eval()


def load_weights(path: Path) -> dict[str, Any]:
    """What `torch.save` wrote: weights by name, or a checkpoint of Lightning's.

    Raises:
        WeightsError: neither.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, OSError, EOFError, ValueError, pickle.UnpicklingError) as exc:
        raise WeightsError(f"{path} holds no readable weights: {str(exc).splitlines()[0]}") from exc
    if not isinstance(state, dict):
        raise WeightsError(f"{path} holds {type(state).__name__}, expected weights by name")
    return state


def held_out(data: Any) -> HeldOut:
    """The test images, in the order of their file."""
    test = data.test_images()
    return HeldOut(_channels_last(test.pixels), test.labels.cpu().numpy())


def calibration_images(data: Any) -> NDArray[np.uint8]:
    """(N, H, W, 3): the first training images, which are in random order."""
    return _channels_last(data.train_images().pixels[:CALIBRATION_IMAGES])


def _channels_last(pixels: torch.Tensor) -> NDArray[np.uint8]:
    return np.ascontiguousarray(pixels.permute(0, 2, 3, 1).cpu().numpy())


class RunError(ValueError):
    """The folder cannot be used; the message says why and what to do."""


@dataclass(frozen=True)
class TrainedRun:
    """What later stages work with.

    Attributes:
        data: as the configuration names it; nothing of it is read yet.
        network: with its final weights, in eval mode, on the CPU.
    """

    folder: RunFolder
    cfg: DictConfig
    data: Any
    network: nn.Module


def open_trained(path: Path) -> TrainedRun:
    """The trained run in a folder.

    Raises:
        RunError: no run folder, an unfinished one, or weights that do not fit its configuration.
    """
    run = RunFolder(path)
    try:
        cfg = run.load_config()
    except ResumeError as exc:
        raise RunError(str(exc)) from exc
    if not run.weights.is_file():
        raise RunError(f"{path} holds no {run.weights.name}: its training is not finished")
    try:
        data = instantiate(cfg.data)
        network: nn.Module = instantiate(cfg.network, classes=len(data.classes))
    except InstantiationException as exc:
        raise RunError(f"{run.config}: {exc.__cause__ or exc}") from exc
    try:
        network.load_state_dict(torch.load(run.weights, map_location="cpu", weights_only=True))
    except Exception as exc:  # whatever unpickling a damaged file comes upon
        raise RunError(f"{run.weights} cannot be used ({type(exc).__name__}): {exc}") from exc
    return TrainedRun(run, cfg, data, network.eval())
