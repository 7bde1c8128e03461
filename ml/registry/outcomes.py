"""How a model does on test images, one by one: measured once, then kept in the registry."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ml.artifact import Artifact
from ml.data.cifar10 import DatasetError, dataset_digest, locate, read_records
from ml.data.cifar10_pin import read_pin
from ml.data.fetch import FetchError
from ml.evaluation import evaluate
from ml.registry.errors import RegistryError
from ml.registry.manifest import Manifest
from ml.registry.model_registry import Registry


@dataclass(frozen=True)
class Examples:
    """Test images that models are compared on, and the digest that names them."""

    digest: str
    images: NDArray[np.uint8]  # (N, H, W, 3), RGB
    labels: NDArray[np.int64]  # (N,)


@dataclass(frozen=True)
class Outcomes:
    """Scores of one model on one test set."""

    test_set: str
    accuracy: float
    calibration_error: float
    right: NDArray[np.bool_]  # (N,), whether it is right on each image

    def to_json(self) -> bytes:
        """Kept at an eighth of a byte an image."""
        packed = base64.b64encode(np.packbits(self.right).tobytes()).decode()
        values = vars(self) | {"right": packed, "images": len(self.right)}
        return (json.dumps(values) + "\n").encode()

    @classmethod
    def from_json(cls, data: bytes) -> Outcomes:
        """Inverse of `to_json`."""
        values: dict[str, Any] = json.loads(data)
        packed = np.frombuffer(base64.b64decode(values.pop("right")), np.uint8)
        right = np.unpackbits(packed, count=values.pop("images")).astype(bool)
        return cls(right=right, **values)


def find_examples(manifest: Manifest, npz: Path | None) -> Examples | None:
    """What to judge a model by: a given file, else the test images of the dataset it was made
    from, else nothing.

    Args:
        npz: arrays `images`, uint8 (N, H, W, 3), and `labels`, integers (N,).

    Raises:
        RegistryError: the file cannot be used for this model.
    """
    if npz is not None:
        return _read_npz(npz, manifest)
    if "KILN_CIFAR10" not in os.environ and read_pin().digest != manifest.dataset_digest:
        return None
    try:
        folder = locate()
        if dataset_digest(folder) != manifest.dataset_digest:
            return None
    except (DatasetError, FetchError, OSError) as exc:
        raise RegistryError(
            f"{exc}\nWithout test images (--no-test-data) recorded accuracies are compared"
        ) from exc
    records = read_records(folder / "test.bin")
    images = np.ascontiguousarray(records.images.transpose(0, 2, 3, 1))
    return Examples(f"{manifest.dataset_digest}/test", images, records.labels)


def outcomes(registry: Registry, version: str, artifact: Artifact, examples: Examples) -> Outcomes:
    """The model's scores, from the registry or by running it over all images."""
    key = f"outcomes/{version}-{hashlib.sha256(examples.digest.encode()).hexdigest()[:16]}.json"
    try:
        return Outcomes.from_json(registry.store.read(key))
    except KeyError:
        measured = _measure(artifact, examples)
    registry.store.create(key, measured.to_json())
    return measured


def _measure(artifact: Artifact, examples: Examples) -> Outcomes:
    probabilities = artifact.predict(examples.images).probabilities
    scores = evaluate(probabilities, examples.labels, artifact.metadata.classes)
    right = probabilities.argmax(axis=1) == examples.labels
    return Outcomes(examples.digest, scores.accuracy, scores.calibration_error, right)


def _read_npz(path: Path, manifest: Manifest) -> Examples:
    shape = (*manifest.input_size, 3)
    try:
        with np.load(path, allow_pickle=False) as arrays:
            images, labels = arrays["images"], arrays["labels"]
    except (OSError, ValueError, KeyError) as exc:
        raise RegistryError(
            f"{path} holds no test images ({exc}): expected an .npz with images and labels"
        ) from exc
    fits = images.dtype == np.uint8 and images.ndim == 4 and images.shape[1:] == shape
    if not fits or labels.shape != images.shape[:1] or not np.issubdtype(labels.dtype, np.integer):
        raise RegistryError(
            f"{path} holds {images.dtype}{images.shape} images and {labels.dtype}{labels.shape} "
            f"labels: this model takes uint8(N, {shape[0]}, {shape[1]}, 3) and integers (N,)"
        )
    if not len(labels) or labels.min() < 0 or labels.max() >= len(manifest.classes):
        raise RegistryError(f"{path} has no images, or labels that are none of the model's classes")
    digest = hashlib.sha256(images.tobytes() + labels.astype(np.int64).tobytes()).hexdigest()
    return Examples(digest, images, labels.astype(np.int64))
