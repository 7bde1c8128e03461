"""Reads CIFAR-10: location of the files, records as arrays, stratified split, dataset digest.

A program that reads the dataset under Bazel lists it in its data and calls ``locate()``; nothing
else is needed::

    py_binary(
        name = "train",
        data = ["@cifar10//:cifar10"],
        deps = ["//ml/data"],
        ...
    )
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ml.data.cifar10_files import FILE_NAMES, Pin, pin_folder

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
TRAIN_IMAGES = 50_000
IMAGE_SHAPE = (3, 32, 32)
RECORD_BYTES = 1 + 3 * 32 * 32


class DatasetError(ValueError):
    """The files cannot be used; the message names the file and says what to do."""


@dataclass(frozen=True)
class Records:
    """A part of the dataset.

    Attributes:
        images: (N, 3, 32, 32) uint8, channels in the order red, green, blue.
        labels: (N,) int64, indices into CLASSES.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)


def read_records(path: Path) -> Records:
    """Reads all records of a file: one label byte, then 3072 bytes of planar RGB each.

    Raises:
        DatasetError: the file is missing, is not a whole number of records, or has a label above 9.
    """
    try:
        raw = np.fromfile(path, dtype=np.uint8)
    except OSError as exc:
        raise DatasetError(f"{path} cannot be read ({exc.strerror}): run ml/data/fetch.py") from exc
    if raw.size == 0 or raw.size % RECORD_BYTES:
        raise DatasetError(
            f"{path} has {raw.size} bytes, not a multiple of {RECORD_BYTES}: "
            "run ml/data/fetch.py --verify"
        )
    rows = raw.reshape(-1, RECORD_BYTES)
    labels = rows[:, 0].astype(np.int64)
    if labels.max() >= len(CLASSES):
        record = int(labels.argmax())
        raise DatasetError(
            f"{path}: record {record} has label {labels[record]}, expected 0..{len(CLASSES) - 1}"
        )
    return Records(np.ascontiguousarray(rows[:, 1:]).reshape(-1, *IMAGE_SHAPE), labels)


def dataset_digest(dataset: Path | Pin) -> str:
    """SHA-256 in hex that identifies the dataset: of a folder's files (read whole) or of a pin.

    The two are equal exactly when the folder holds the pinned bytes.
    """
    return (dataset if isinstance(dataset, Pin) else pin_folder(dataset)).digest


def stratified_split(
    labels: NDArray[np.int64], validation_size: float, seed: int, name: str = "validation_size"
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices for training and for validation. Validation gets equally many images of each class
    or, if `validation_size` is below 1, that share of each class: at least one image of a class
    that has two.

    Both arrays are sorted; they are disjoint and together cover all indices. The same arguments
    give the same split on every machine.

    Raises:
        ValueError: validation_size is not a multiple of the number of classes, or a class is too
            small for its share.
    """
    classes, counts = np.unique(labels, return_counts=True)
    if 0 < validation_size < 1:
        shares = np.clip(np.rint(validation_size * counts), 1, counts - 1).astype(int)
    else:
        share, rest = divmod(validation_size, len(classes))
        if validation_size < 0 or rest:
            raise ValueError(
                f"data.{name} must be a share of each class, or a multiple of {len(classes)} "
                f"classes, got {validation_size}"
            )
        if share > counts.min():
            raise ValueError(
                f"data.{name}={validation_size:g} takes {share:g} per class, one has {counts.min()}"
            )
        shares = np.full(len(classes), int(share))
    random = np.random.Generator(np.random.PCG64(seed))
    chosen = [
        random.permutation(np.flatnonzero(labels == index))[:share]
        for index, share in zip(classes, shares, strict=True)
    ]
    validation = np.sort(np.concatenate(chosen))
    return np.setdiff1d(np.arange(len(labels)), validation), validation


def stratified_fold(
    labels: NDArray[np.int64], fold: int, folds: int, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices for training and for validation in one of several folds, counted from 0.

    The folds are disjoint and together cover all indices; their sizes, and each class's counts in
    them, differ by at most one image. Both arrays are sorted; the same arguments give the same fold
    on every machine.
    """
    random = np.random.Generator(np.random.PCG64(seed))
    classes = np.unique(labels)
    dealt = np.concatenate([random.permutation(np.flatnonzero(labels == one)) for one in classes])
    validation = np.sort(dealt[fold::folds])
    return np.setdiff1d(np.arange(len(labels)), validation), validation


def locate() -> Path:
    """The folder that holds train.bin and test.bin.

    In order of precedence: the folder named by ``KILN_CIFAR10``; the runfiles of a Bazel program
    that has ``@cifar10`` in its data; this machine's cache, which ``ml.data.fetch`` fills if
    necessary.

    Raises:
        DatasetError: KILN_CIFAR10 names a folder without the files.
        FetchError: the cache is empty and no source could deliver.
    """
    if chosen := os.environ.get("KILN_CIFAR10"):
        folder = Path(chosen).expanduser()
        if not _holds_dataset(folder):
            raise DatasetError(
                f"KILN_CIFAR10={chosen} holds no train.bin and test.bin: unset it or fill it"
            )
        return folder
    for folder in _runfiles_candidates():
        if _holds_dataset(folder):
            return folder
    from ml.data.fetch import fetch_default  # lazy: readers of given files need no sources

    return fetch_default()


def _holds_dataset(folder: Path) -> bool:
    return all((folder / name).is_file() for name in FILE_NAMES)


def _runfiles_candidates() -> Iterator[Path]:
    """The folder of ``@cifar10`` in this program's runfiles, by Bazel's repository mapping.

    This module lies in ``<runfiles>/<main repository>/ml/data/``; unlike RUNFILES_DIR, that path
    never belongs to another program.
    """
    runfiles = Path(os.path.abspath(__file__)).parents[3]
    mapping = runfiles / "_repo_mapping"
    if mapping.is_file():
        for line in mapping.read_text(encoding="utf-8").splitlines():
            source, apparent, canonical = line.split(",")
            if not source and apparent == "cifar10":
                yield runfiles / canonical
