"""The golden set of the simulation: a real model's answers to the real test images."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

CONFIDENCE_EDGES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)
_RECORD, _BATCH = 3073, 250


@dataclass(frozen=True)
class Golden:
    """A model's answers to N images."""

    labels: NDArray[np.int64]
    predictions: NDArray[np.int64]
    confidence: NDArray[np.float64]


def answer(
    model: Path, records: Path, images: int, threads: int, progress: Callable[[int], None]
) -> Golden:
    """Runs a model on the first images of a file in CIFAR-10's binary layout.

    Raises:
        ValueError: the file is no such file.
    """
    size = records.stat().st_size
    if not size or size % _RECORD:
        raise ValueError(f"{records}: {size} bytes are not records of {_RECORD} bytes")
    data = np.fromfile(records, np.uint8, images * _RECORD).reshape(-1, _RECORD)
    planes = data[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    found = []
    for start in range(0, len(planes), _BATCH):
        batch = np.ascontiguousarray(planes[start : start + _BATCH])
        found.append(session.run(["probabilities"], {"images": batch})[0])
        progress(len(batch))
    probabilities = np.concatenate(found)
    return Golden(
        data[:, 0].astype(np.int64),
        probabilities.argmax(1).astype(np.int64),
        probabilities.max(1).astype(np.float64),
    )


def made_up(images: int, seed: int, accuracy: float = 0.93) -> Golden:
    """Answers of no model, for quick looks: ten classes, errors at random."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 10, images)
    wrong = random.random(images) > accuracy
    predictions = np.where(wrong, (labels + random.integers(1, 10, images)) % 10, labels)
    confidence = np.where(wrong, random.uniform(0.3, 1, images), random.beta(8, 0.6, images))
    return Golden(labels, predictions, np.clip(confidence, 0.1, 1))
