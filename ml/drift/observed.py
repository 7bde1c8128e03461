"""What was seen of live traffic: answers and signals, from images, a folder, or a log."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ml.artifact import Artifact
from ml.drift_reference import Signals, bins_of, measured
from serve.contract.artifact import DriftReference
from serve.contract.drift import Counts

_BATCH = 200


class InputError(ValueError):
    """Nothing that can be compared; the message says what was expected."""


@dataclass(frozen=True)
class Observed:
    """Answers to N images, and what was measured on as many of them as possible.

    Attributes:
        predictions: (N,) class indices.
        signals: values by name, at most N each.
        problems: what was left out and why, one line each.
    """

    source: str
    predictions: NDArray[np.int64]
    signals: Signals
    problems: Sequence[str] = field(default=())


def answered(
    probabilities: NDArray[np.floating], images: NDArray[np.uint8], source: str
) -> Observed:
    """What (N, K) answers to (N, H, W, 3) images amount to."""
    return Observed(source, probabilities.argmax(axis=1), measured(images, probabilities))


def observe(
    artifact: Artifact,
    images: NDArray[np.uint8],
    source: str,
    progress: Callable[[int], None] = lambda _: None,
) -> Observed:
    """Have the model answer (N, H, W, 3) images, N >= 1; `progress` hears of each batch's size."""
    parts = []
    for start in range(0, len(images), _BATCH):
        batch = images[start : start + _BATCH]
        parts.append(artifact.predict(batch).probabilities)
        progress(len(batch))
    return answered(np.concatenate(parts), images, source)


def counted(reference: DriftReference, predictions: NDArray[np.int64], signals: Signals) -> Counts:
    """The window in the reference's bins: `Counts.add` for whole arrays."""
    window = Counts.empty(reference)
    window.classes = _counts(predictions, len(window.classes))
    for signal in reference.signals:
        if signal.name in signals:
            bins = bins_of(signal, signals[signal.name])
            window.signals[signal.name] = _counts(bins, len(signal.shares))
    return window


def listed(problems: Iterable[str], most: int = 5) -> list[str]:
    """The first few of many problems, and how many more there are."""
    every = list(problems)
    return every[:most] + ([f"… and {len(every) - most} more"] if len(every) > most else [])


def _counts(values: NDArray[np.int64], length: int) -> list[int]:
    return [int(count) for count in np.bincount(values, minlength=length)]
