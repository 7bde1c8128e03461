"""The trained network that a command starts from: a run folder, or a file of weights in one."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from torch import nn

from ml.artifact.calibration import calibrate
from ml.artifact.export import Provenance
from ml.runs.folder import ResumeError, RunFolder, config_digest
from ml.runs.loading import WeightsError, load_weights, make_data, make_network
from ml.runs.provenance import UNKNOWN, git_revision, lock_digest

_PREFIX = "network."  # of the network's weights in a checkpoint of Lightning's
_CHECKPOINTS = "best.ckpt", "last.ckpt"


class SourceError(ValueError):
    """There is nothing to start from; the message says what was expected where."""


@dataclass(frozen=True)
class Source:
    """A trained network with what it was trained by.

    Attributes:
        weights: the file that they come from.
        summary: of the finished run, empty if it has not finished.
        temperature: that the logits were divided by here, 1 if the weights were calibrated already.
    """

    run: RunFolder
    weights: Path
    cfg: DictConfig
    data: Any
    network: nn.Module
    summary: dict[str, Any]
    temperature: float

    @property
    def provenance(self) -> Provenance:
        """Where the weights come from, as far as the run has written it down."""
        return Provenance(
            git_revision=self.summary.get("git_revision") or git_revision(),
            config_digest=config_digest(self.cfg),
            dataset_digest=self.data.digest,
            lock_digest=lock_digest(),
            device=self.summary.get("device") or UNKNOWN,
            precision=self.summary.get("precision") or UNKNOWN,
        )


def open_source(path: Path) -> Source:
    """The network of a run folder, or of a ``.pt`` or ``.ckpt`` file in one.

    Weights straight from training (a checkpoint) are calibrated on the validation images first, as
    a finished run's have been.

    Raises:
        SourceError: nothing there, or not in a run folder.
        WeightsError: the file holds no weights of this network.
    """
    weights = find_weights(path)
    run = RunFolder(_run_folder(weights))
    try:
        cfg = run.load_config()
    except ResumeError as exc:
        raise SourceError(f"{weights} is in no run folder: {exc}") from exc
    state, data = load_weights(weights), make_data(cfg)
    is_checkpoint = isinstance(state.get("state_dict"), dict)
    if is_checkpoint:
        state = _network_part(weights, state["state_dict"])
    network = make_network(cfg, len(data.classes), state)
    temperature = calibrate(network, data.validation_images()) if is_checkpoint else 1.0
    summary = json.loads(run.summary.read_text(encoding="utf-8")) if run.is_finished else {}
    return Source(run, weights, cfg, data, network, summary, temperature)


def find_weights(path: Path) -> Path:
    """The file that is meant: the best of a run folder, or the given one.

    Raises:
        SourceError: there is none.
    """
    if path.is_file():
        return path
    run = RunFolder(path)
    candidates = [run.weights, *(run.checkpoints / name for name in _CHECKPOINTS)]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    if not path.exists():
        raise SourceError(f"{path}: there is no such file or folder; `ls runs` shows the runs")
    expected = ", ".join(str(candidate.relative_to(path)) for candidate in candidates)
    raise SourceError(f"{path} holds no trained network, expected one of {expected}")


def _run_folder(weights: Path) -> Path:
    """The nearest folder above with a config.yaml, else the file's own."""
    folders = [weights.absolute().parent, weights.absolute().parent.parent]
    return next((f for f in folders if RunFolder(f).config.is_file()), folders[0])


def _network_part(path: Path, state: dict[str, Any]) -> dict[str, Any]:
    found = {k.removeprefix(_PREFIX): v for k, v in state.items() if k.startswith(_PREFIX)}
    if not found:
        raise WeightsError(f"{path} is a checkpoint without weights named {_PREFIX}…")
    return found
