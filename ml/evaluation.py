"""How good a classifier's probabilities are: one value that reports and gates share."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

CALIBRATION_BINS = 15


@dataclass(frozen=True)
class Evaluation:
    """Scores of (N, K) probabilities against N labels; per-class tuples follow `classes`.

    A class that is never predicted has precision 0, one that never occurs has recall 0. The macro
    F1 is the mean over classes that occur or are predicted. The confusion matrix counts images:
    rows are labels, columns predictions. The last three tuples describe equal bins of confidence
    (the top probability) over 0..1: images, mean confidence, accuracy (both 0 in an empty bin).
    """

    classes: tuple[str, ...]
    images: int
    loss: float  # mean cross-entropy, nats
    accuracy: float
    macro_f1: float
    calibration_error: float
    precision: tuple[float, ...]
    recall: tuple[float, ...]
    f1: tuple[float, ...]
    support: tuple[int, ...]
    confusion: tuple[tuple[int, ...], ...]
    confidence_histogram: tuple[int, ...]
    bin_confidence: tuple[float, ...]
    bin_accuracy: tuple[float, ...]

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready values, in field order."""
        return asdict(self)

    def to_json(self) -> str:
        """Text that `from_json` turns into an equal value."""
        return json.dumps(self.as_dict(), indent=2, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "Evaluation":
        """Inverse of `to_json`; TypeError if keys are missing or unknown."""
        return cls(**{key: _as_tuples(value) for key, value in json.loads(text).items()})


def evaluate(probabilities: ArrayLike, labels: ArrayLike, classes: Sequence[str]) -> Evaluation:
    """Score predictions.

    Args:
        probabilities: (N, K), rows sum to one.
        labels: (N,), class indices in 0..K-1.
        classes: K names.

    Raises:
        ValueError: shapes disagree, N is 0, a row is no distribution, a label is out of range.
    """
    p, y = checked(probabilities, labels, len(classes))
    predictions, confidence = p.argmax(axis=1), p.max(axis=1)
    correct = predictions == y
    confusion = np.zeros((len(classes), len(classes)), dtype=np.int64)
    np.add.at(confusion, (y, predictions), 1)
    hits, support, predicted = confusion.diagonal(), confusion.sum(axis=1), confusion.sum(axis=0)
    f1 = _ratio(2 * hits, support + predicted)
    bins = _bins(confidence)
    counts = np.bincount(bins, minlength=CALIBRATION_BINS)
    bin_confidence = _ratio(np.bincount(bins, confidence, CALIBRATION_BINS), counts)
    bin_accuracy = _ratio(np.bincount(bins, correct, CALIBRATION_BINS), counts)
    return Evaluation(
        classes=tuple(classes),
        images=len(y),
        loss=float(_cross_entropy(p, y).mean()),
        accuracy=float(correct.mean()),
        macro_f1=float(f1[(support + predicted) > 0].mean()),
        calibration_error=float((counts * np.abs(bin_confidence - bin_accuracy)).sum() / len(y)),
        precision=_as_tuples(_ratio(hits, predicted).tolist()),
        recall=_as_tuples(_ratio(hits, support).tolist()),
        f1=_as_tuples(f1.tolist()),
        support=_as_tuples(support.tolist()),
        confusion=_as_tuples(confusion.tolist()),
        confidence_histogram=_as_tuples(counts.tolist()),
        bin_confidence=_as_tuples(bin_confidence.tolist()),
        bin_accuracy=_as_tuples(bin_accuracy.tolist()),
    )


def worst_mistakes(probabilities: ArrayLike, labels: ArrayLike, count: int) -> NDArray[np.int64]:
    """Indices of at most `count` wrong predictions, the most confident first."""
    p, y = np.asarray(probabilities), np.asarray(labels)
    wrong = np.flatnonzero(p.argmax(axis=1) != y)
    order = np.argsort(-p.max(axis=1)[wrong], kind="stable")
    return wrong[order][:count]


def checked(
    probabilities: ArrayLike, labels: ArrayLike, classes: int
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Both as arrays, once they are what `evaluate` promises to understand."""
    p, y = np.asarray(probabilities, dtype=np.float64), np.asarray(labels)
    if p.ndim != 2 or p.shape[1] != classes or y.shape != p.shape[:1] or len(y) == 0:
        raise ValueError(
            f"Expected (N, {classes}) probabilities and N >= 1 labels, got {p.shape} and {y.shape}"
        )
    if not (np.isfinite(p).all() and (p >= 0).all() and np.allclose(p.sum(axis=1), 1, atol=1e-3)):
        raise ValueError("Expected rows of probabilities that sum to one; are these logits?")
    if not np.issubdtype(y.dtype, np.integer) or y.min() < 0 or y.max() >= classes:
        raise ValueError(f"Expected integer labels in 0..{classes - 1}, got {y.min()}..{y.max()}")
    return p, y.astype(np.int64)


def _cross_entropy(p: NDArray[np.float64], y: NDArray[np.int64]) -> NDArray[np.float64]:
    smallest = float(np.finfo(np.float32).tiny)  # a float32 softmax may underflow to zero
    return -np.log(np.maximum(p[np.arange(len(y)), y], smallest))


def _bins(confidence: NDArray[np.float64]) -> NDArray[np.int64]:
    return np.minimum((confidence * CALIBRATION_BINS).astype(np.int64), CALIBRATION_BINS - 1)


def _ratio(part: NDArray[Any], whole: NDArray[Any]) -> NDArray[np.float64]:
    """Elementwise part / whole, 0 where whole is 0."""
    return np.asarray(np.divide(part, whole, out=np.zeros(len(whole)), where=whole > 0))


def _as_tuples(value: Any) -> Any:
    return tuple(_as_tuples(item) for item in value) if isinstance(value, list) else value
