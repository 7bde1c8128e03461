"""Facts of the real data: what its descriptions say, and what its users should know."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from ml.data.cifar10 import Records, dataset_digest, locate, read_records
from ml.data.cifar10_pin import read_pin

BATCH_BYTES = 10_000 * 3073
# Of the files in the authors' archive, as many public projects state them.
PUBLISHED_MD5 = (
    "5dd7e06a14cb22eb9f671a540d1b7c25",
    "5ea93a67294ea407fff1d09f752e9692",
    "942cd6a4bcdd0dd3c604fbe906cb4421",
    "ae636b3ba5c66a11e91e8cb52e771fcb",
    "53f37980c15c3d472c316c40844f3f0d",
    "803d5f7f4d78ea53de84dbe85f74fb6d",
)


@pytest.fixture(scope="module")
def folder() -> Path:
    return locate()


@pytest.fixture(scope="module")
def train(folder: Path) -> Records:
    return read_records(folder / "train.bin")


@pytest.fixture(scope="module")
def test(folder: Path) -> Records:
    return read_records(folder / "test.bin")


def test_the_files_are_the_pinned_ones(folder: Path) -> None:
    assert dataset_digest(folder) == dataset_digest(read_pin())


def test_each_batch_is_the_published_one(folder: Path) -> None:
    content = (folder / "train.bin").read_bytes() + (folder / "test.bin").read_bytes()
    batches = [content[at : at + BATCH_BYTES] for at in range(0, len(content), BATCH_BYTES)]
    assert tuple(_md5(batch) for batch in batches) == PUBLISHED_MD5


def _md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def test_classes_are_balanced(train: Records, test: Records) -> None:
    assert np.bincount(train.labels).tolist() == [5000] * 10
    assert np.bincount(test.labels).tolist() == [1000] * 10


def test_the_first_labels_are_the_known_ones(train: Records) -> None:
    assert train.labels[:10].tolist() == [6, 9, 9, 4, 1, 1, 2, 7, 8, 3]


def test_channel_statistics_are_the_published_ones(train: Records) -> None:
    means, stds = _channel_statistics(train.images)
    np.testing.assert_allclose(means, [0.4914, 0.4822, 0.4465], atol=5e-5)
    np.testing.assert_allclose(stds, [0.2470, 0.2435, 0.2616], atol=5e-5)


def _channel_statistics(
    images: NDArray[np.uint8],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """From the counts of the 256 values, exactly, and without 1.2 GB of floats."""
    values = np.arange(256) / 255
    counts = np.stack([np.bincount(images[:, plane].ravel(), minlength=256) for plane in range(3)])
    shares = counts / counts.sum(axis=1, keepdims=True)
    means = shares @ values
    return means, np.sqrt(shares @ values**2 - means**2)


def test_no_test_image_is_also_a_training_image(train: Records, test: Records) -> None:
    assert not _fingerprints(train.images) & _fingerprints(test.images)


def _fingerprints(images: NDArray[np.uint8]) -> set[bytes]:
    return {hashlib.blake2b(image.tobytes(), digest_size=16).digest() for image in images}
