"""Opens a trained run: its configuration, data, and network with its final weights."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from numpy.typing import NDArray
from omegaconf import DictConfig
from torch import Tensor, nn

from common.model.artifact import Provenance
from ml.artifact.evaluation import Labelled, torch_probabilities
from ml.artifact.weights import calibrate, read_weights
from ml.data.checks import open_data, unwrapped
from ml.runs.folder import ResumeError, RunFolder, config_digest
from ml.runs.provenance import UNKNOWN, git_revision, lock_digest, read_provenance

_CALIBRATION_IMAGES = 512
_CHECKPOINTS = "best.ckpt", "last.ckpt"


class TrainedError(ValueError):
    """There is no usable trained network; the message says why and what to do."""


@dataclass(frozen=True)
class Trained:
    """A trained network with its configuration and data.

    Attributes:
        weights: the file of its weights.
        data: by the configuration; images are read on demand.
        network: in eval mode, on the CPU.
        training: the result of `ml.training.fitting.finish`, empty if unfinished.
        temperature: applied to the logits here; 1 if the weights were calibrated before.
    """

    run: RunFolder
    weights: Path
    cfg: DictConfig
    data: Any
    network: nn.Module
    training: dict[str, Any]
    temperature: float = 1.0

    @property
    def provenance(self) -> Provenance:
        """Provenance of the weights, as far as the run recorded it."""
        known = self.training
        return Provenance(
            git_revision=known.get("git_revision") or git_revision(),
            config_digest=config_digest(self.cfg),
            dataset_digest=self.data.digest,
            lock_digest=known.get("lock_digest") or lock_digest(),
            device=known.get("device") or UNKNOWN,
            precision=known.get("precision") or UNKNOWN,
        )

    @property
    def parameters(self) -> int:
        """The number of the network's parameters."""
        return sum(weight.numel() for weight in self.network.parameters())

    def answer(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(N, K) probabilities for (N, H, W, 3) images, by PyTorch in fp32."""
        return torch_probabilities(self.network, images, self.data.mean, self.data.std)


def open_trained(
    path: Path, *, or_checkpoint: bool = False, dataset: Path | None = None
) -> Trained:
    """The network of a run folder, or of a ``.pt`` or ``.ckpt`` file in one.

    Uncalibrated weights (a checkpoint) are first calibrated on the validation images, as in a
    finished run.

    Args:
        or_checkpoint: use the best checkpoint of an unfinished run.
        dataset: the folder of train.bin and test.bin, if not in the usual locations.

    Raises:
        TrainedError: it does not exist, is not in a run folder, does not fit the network, or the
            dataset has changed since the training.
        DatasetError: the validation images cannot be read.
    """
    weights = _find_weights(path, or_checkpoint)
    run = RunFolder(_run_folder(weights))
    try:
        cfg = run.load_config()
    except ResumeError as exc:
        raise TrainedError(f"{weights} is not in a run folder: {exc}") from exc
    try:
        state, is_checkpoint = read_weights(weights)
    except ValueError as exc:
        raise TrainedError(str(exc)) from exc
    try:
        data = open_data(cfg, dataset)
        _check_unchanged(run, data)  # first, since other classes are another network, too
        network: nn.Module = instantiate(cfg.network, classes=len(data.classes))
        network.load_state_dict(state)
    except InstantiationException as exc:
        raise TrainedError(f"{run.config}: {unwrapped(exc)}") from exc
    except RuntimeError as exc:
        raise TrainedError(f"the weights in {weights} are of another network: {exc}") from exc
    network.eval()
    temperature = calibrate(network, data.validation_images()) if is_checkpoint else 1.0
    return Trained(run, weights, cfg, data, network, _training(run), temperature)


def _check_unchanged(run: RunFolder, data: Any) -> None:
    """Rejects a dataset that differs from the one recorded by the run."""
    record = read_provenance(run)
    record = record.get("continued", [record])[-1]
    if (trained := record.get("dataset_digest")) and trained != (now := data.digest):
        raise TrainedError(
            f"{run.path} was trained on the dataset {trained[:16]}, and what its config.yaml names "
            f"is now {now[:16]}: restore the former, or retrain"
        )
    classes = tuple(data.classes)
    if (names := record.get("classes")) and tuple(names) != classes:
        raise TrainedError(
            f"{run.path} was trained on the classes {', '.join(names)}, and its dataset now has "
            f"{', '.join(classes)}: restore the former, or retrain"
        )


def labelled_test(data: Any) -> Labelled:
    """The test images, in file order."""
    return _labelled(data.test_images())


def labelled_train(data: Any) -> Labelled:
    """All images used during training, validation images last."""
    parts = _labelled(data.train_images()), _labelled(data.validation_images())
    return Labelled(
        np.concatenate([part.images[:] for part in parts]),
        np.concatenate([part.labels for part in parts]),
    )


def labelled_validation(data: Any) -> Labelled:
    """The validation images."""
    return _labelled(data.validation_images())


def _labelled(images: Any) -> Labelled:
    pixels = images.pixels
    shown = _channels_last(pixels) if isinstance(pixels, Tensor) else pixels  # stay on disk
    return Labelled(shown, images.labels.cpu().numpy())


def calibration_images(data: Any) -> NDArray[np.uint8]:
    """(N, H, W, 3): the first training images, which are in random order."""
    return _channels_last(data.train_images().take(slice(_CALIBRATION_IMAGES)))


def _channels_last(pixels: Tensor) -> NDArray[np.uint8]:
    return np.ascontiguousarray(pixels.permute(0, 2, 3, 1).cpu().numpy())


def _find_weights(path: Path, or_checkpoint: bool) -> Path:
    if path.is_file():
        return path
    if not path.exists():
        raise TrainedError(f"{path}: there is no such file or folder; `ls runs` shows the runs")
    run = RunFolder(path)
    checkpoints = [run.checkpoints / name for name in _CHECKPOINTS if or_checkpoint]
    candidates = [run.weights, *checkpoints]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    expected = ", ".join(str(candidate.relative_to(path)) for candidate in candidates)
    raise TrainedError(
        f"{path} holds no trained network, expected {expected}: if its training has not finished, "
        f"continue it with resume={path}"
    )


def _run_folder(weights: Path) -> Path:
    """The nearest parent folder with a config.yaml, else the file's own folder."""
    folders = [weights.absolute().parent, weights.absolute().parent.parent]
    return next((f for f in folders if RunFolder(f).config.is_file()), folders[0])


def _training(run: RunFolder) -> dict[str, Any]:
    """Facts of a finished training; the pipeline's stage has its own file for them."""
    for path in (run.training, run.summary):
        if path.is_file():
            known: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            return known
    return {}
