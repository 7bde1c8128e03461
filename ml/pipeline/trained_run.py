"""A run folder whose training is done: its configuration, data and network, ready for the test
set."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import nn

from ml.run_folder import ResumeError, RunFolder


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
