"""The dataset of a model, found by its training configuration and compared with its metadata.

All commands that open a model with data use this module, so that none evaluates a model on images
of other classes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from omegaconf import DictConfig, OmegaConf

from ml.artifact.evaluation import Labelled
from ml.data.cifar10 import (
    CLASSES,
    IMAGE_SHAPE,
    DatasetError,
    dataset_digest,
    locate,
    read_records,
    stratified_split,
)
from ml.data.cifar10_files import read_pin
from ml.runs.folder import ResumeError, RunFolder, config_digest

_CIFAR10 = "ml.data.datamodule.CIFAR10"
_SHOWN = 4  # class names shown in a message


class Model(Protocol):
    """A model's facts from an artifact's metadata or a registry's manifest."""

    @property
    def name(self) -> str: ...
    @property
    def classes(self) -> tuple[str, ...]: ...
    @property
    def input_size(self) -> tuple[int, int]: ...
    @property
    def dataset_digest(self) -> str: ...


class DatasetMismatch(DatasetError):
    """A model and a dataset do not match; the message says in what they differ."""


class UnavailableDataset(DatasetError):
    """A user's dataset is unavailable here; the message says why."""


@dataclass(frozen=True)
class Dataset:
    """A labelled dataset; images are read on demand.

    Attributes:
        name: display name.
        image_size: height and width in pixels.
        read: reads `train` or `test`, in its own order, or `validation`, the part of `train` that
            the configuration sets aside.
        mirrored: whether training mirrors images.
    """

    name: str
    classes: tuple[str, ...]
    image_size: tuple[int, int]
    digest: str
    read: Callable[[str], Labelled]
    mirrored: bool = True


def dataset_of(model: Model, config: DictConfig | None) -> Dataset:
    """The dataset that a model was trained on, by its configuration; without one, CIFAR-10.

    Raises:
        DatasetMismatch: its classes, image size or digest differ from the model's.
        UnavailableDataset, DatasetError, FetchError: it cannot be opened.
    """
    if config is None or OmegaConf.select(config, "data._target_") == _CIFAR10:
        found = cifar10(config)
    else:
        found = _own(config, str(config.data._target_))
    check_same(model, found)
    return found


def dataset_of_file(path: Path, model: Any) -> Dataset:
    """`dataset_of` for a model file, by its run folder.

    Args:
        model: the file's metadata.
    """
    return dataset_of(model, config_beside(path, model.config_digest))


def check_same(model: Model, dataset: Dataset | Any) -> None:
    """Compares a model with a dataset, or with a data module.

    Raises:
        DatasetMismatch: they do not match.
    """
    classes, size = tuple(dataset.classes), tuple(dataset.image_size)
    name = getattr(dataset, "name", None) or type(dataset).__name__
    if tuple(model.classes) != classes:
        found, expected = f"the classes {_listed(classes)}", _listed(model.classes)
    elif tuple(model.input_size) != size:
        found, expected = (f"{h} × {w} pixels" for h, w in (size, model.input_size))
    elif model.dataset_digest != (digest := dataset.digest):
        found, expected = f"digest {_short(digest)}", _short(model.dataset_digest)
    else:
        return
    raise DatasetMismatch(
        f"{model.name} was not trained on this dataset: {name} has {found}, expected {expected}; "
        "name the run folder of its training, whose config.yaml leads to its own data"
    )


def config_beside(path: Path, digest: str) -> DictConfig | None:
    """The configuration in a model file's run folder, if the model was trained with it."""
    for folder in (path.parent, path.parent.parent):
        try:
            config = RunFolder(folder).load_config()
            if config_digest(config) == digest:
                return config
        except (ResumeError, OSError, ValueError, AssertionError):  # not a run's configuration
            continue
    return None


def cifar10(config: DictConfig | None = None) -> Dataset:
    """CIFAR-10, from the folder that a configuration names, or else its usual locations."""
    named = OmegaConf.select(config, "data.folder") if config is not None else None
    is_pinned = not named and "KILN_CIFAR10" not in os.environ
    height, width = IMAGE_SHAPE[1:]

    def read(part: str) -> Labelled:
        name = "train" if part == "validation" else part
        records = read_records((Path(named) if named else locate()) / f"{name}.bin")
        images, labels = records.images.transpose(0, 2, 3, 1), records.labels
        if part == "validation":
            chosen = _validation(labels, config)
            images, labels = images[chosen], labels[chosen]
        return Labelled(np.ascontiguousarray(images), labels)

    # Files in the usual locations were checked against the pin when they were stored.
    digest = read_pin().digest if is_pinned else dataset_digest(Path(named) if named else locate())
    return Dataset("CIFAR-10", CLASSES, (height, width), digest, read, _is_mirrored(config))


def _validation(labels: NDArray[np.int64], config: DictConfig | None) -> NDArray[np.int64]:
    """The images that a configuration sets aside for validation."""
    size = OmegaConf.select(config, "data.validation_size") if config is not None else None
    if not size:
        raise UnavailableDataset(
            "the validation images are unknown, since the model's configuration is unavailable: "
            "name its run folder, or register that"
        )
    assert config is not None
    return stratified_split(labels, size, int(config.data.seed))[1]


def _own(config: DictConfig, target: str) -> Dataset:
    """A user's dataset, through its data module."""
    # Imports Lightning, which CIFAR-10 does not need.
    from ml.data.checks import open_data, unwrapped
    from ml.runs.loading import labelled_test, labelled_train, labelled_validation

    try:
        data = open_data(config)
        digest = data.digest
    except Exception as exc:  # anything may be raised by a user's dataset
        cause = unwrapped(exc)
        why = " ".join(str(cause).split())
        raise UnavailableDataset(
            f"the dataset {target} cannot be opened ({type(cause).__name__}: {why}): its module "
            "must be on PYTHONPATH as it was in training, and its files in data.folder"
        ) from exc
    read = {"train": labelled_train, "validation": labelled_validation, "test": labelled_test}
    return Dataset(
        target.rpartition(".")[2],
        tuple(data.classes),
        tuple(data.image_size),
        digest,
        lambda part: read[part](data),
        _is_mirrored(config),
    )


def _is_mirrored(config: DictConfig | None) -> bool:
    """Whether training mirrors images; older configurations say so in their data group."""
    keys = ("augmentation.mirror", "data.mirror") if config is not None else ()
    found = (OmegaConf.select(config, key) for key in keys)  # type: ignore[arg-type]
    return bool(next((value for value in found if value is not None), True))


def _listed(classes: Sequence[str]) -> str:
    more = f", … ({len(classes)})" if len(classes) > _SHOWN else ""
    return ", ".join(classes[:_SHOWN]) + more


def _short(digest: str) -> str:
    return digest[:16]
