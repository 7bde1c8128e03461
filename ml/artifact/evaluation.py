"""Predictions for labelled images, and metrics with 95 % intervals."""

import copy
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from common.intervals import Interval, Z, wilson
from common.resources import batch_within_memory

if TYPE_CHECKING:
    from torch import nn

CALIBRATION_BINS = 15
_BATCH = 500  # maximum batch size
_GRANTED = 3.0  # standard errors: one calibrated model in a thousand scores worse by chance
_LEAST_EXPECTED = 1e-6  # nats; predictions with probability 1 have an expected loss of 0


class Labelled(NamedTuple):
    """Images (N, H, W, 3) uint8 RGB, and (N,) class indices."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]


def torch_probabilities(
    network: "nn.Module", images: NDArray[np.uint8], mean: Sequence[float], std: Sequence[float]
) -> NDArray[np.float32]:
    """PyTorch's fp32 predictions on the CPU, normalised as in training: the reference for
    parity.
    """
    import torch  # imports PyTorch, which takes seconds and scoring alone does not need

    network = copy.deepcopy(network).to("cpu", torch.float32).eval()
    shift, scale = (torch.tensor(v, dtype=torch.float32).view(1, -1, 1, 1) for v in (mean, std))
    parts, batch = [], batch_within_memory(images[0].size, _BATCH)
    with torch.inference_mode():
        for i in range(0, len(images), batch):
            pixels = torch.from_numpy(images[i : i + batch]).permute(0, 3, 1, 2).float()
            normalised = (pixels / 255 - shift) / scale
            parts.append(torch.softmax(network(normalised), dim=1))
    return np.asarray(torch.cat(parts).numpy())


@dataclass(frozen=True)
class Evaluation:
    """Metrics of (N, K) probabilities against N labels; per-class tuples follow `classes`.

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
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def to_json(self) -> str:
        """Text that `from_json` turns into an equal value."""
        return json.dumps(self.as_dict(), indent=2, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "Evaluation":
        """Inverse of `to_json`; TypeError if keys are missing or unknown."""
        return cls(**{key: _as_tuples(value) for key, value in json.loads(text).items()})


def evaluate(probabilities: ArrayLike, labels: ArrayLike, classes: Sequence[str]) -> Evaluation:
    """Evaluates predictions.

    Args:
        probabilities: (N, K), rows sum to one.
        labels: (N,), class indices in 0..K-1.
        classes: K names.

    Raises:
        ValueError: shapes disagree, N is 0, a row is no distribution, or a label is out of range.
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


@dataclass(frozen=True)
class ProperScore:
    """The mean of a proper scoring rule over N predictions, and its expectation by the predictions
    themselves.

    A calibrated model scores as it expects, up to chance; an overconfident one scores worse,
    however few its mistakes are.

    Attributes:
        expected: the mean if each label were drawn from its prediction.
        error: standard error of that mean.
    """

    score: float
    expected: float
    error: float

    @property
    def excess(self) -> float:
        """Relative excess over the expected score beyond three standard errors; 0 if there is
        none.
        """
        beyond = self.score - self.expected - _GRANTED * self.error
        return max(0.0, beyond) / max(self.expected, _LEAST_EXPECTED)


def proper_scores(probabilities: ArrayLike, labels: ArrayLike) -> tuple[ProperScore, ProperScore]:
    """Cross-entropy in nats, and Brier's score (summed over classes, 0 to 2).

    Args:
        probabilities: (N, K), rows sum to one.
        labels: (N,), class indices in 0..K-1.

    Source: Spiegelhalter 1986, Statistics in Medicine 5:421-433 (Brier's score);
    Seillier-Moiseiwitsch and Dawid 1993, JASA 88:355-359 (any proper score).
    """
    p = np.asarray(probabilities, dtype=np.float64)
    y, squares = np.asarray(labels), (p * p).sum(axis=1, keepdims=True)
    logarithmic = -np.log(np.maximum(p, np.finfo(np.float32).tiny))
    return _proper_score(p, y, logarithmic), _proper_score(p, y, 1 + squares - 2 * p)


def _proper_score(
    p: NDArray[np.float64], y: NDArray[np.integer], scores: NDArray[np.float64]
) -> ProperScore:
    """A proper score from (N, K) scores, one for each possible true label."""
    expected = (p * scores).sum(axis=1)
    variance = (p * (scores - expected[:, None]) ** 2).sum(axis=1)
    return ProperScore(
        float(scores[np.arange(len(y)), y].mean()),
        float(expected.mean()),
        float(np.sqrt(variance.sum()) / len(y)),
    )


def calibration_by_chance(probabilities: ArrayLike) -> float:
    """The calibration error that answers which mean what they say stay below, but for one model of
    a hundred at most.

    Of few images it is far from 0: a bin's share of right answers scatters around its confidence,
    and the error adds up the distances. Their mean and three standard errors, by the normal
    approximation of each bin's sum.

    Args:
        probabilities: (N, K), rows sum to one.

    Source: Bröcker and Smith 2007, Weather and Forecasting 22:651-661 (what is consistent with
    reliable forecasts); Roelofs et al. 2022, AISTATS, arXiv:2012.08668 (the error's bias).
    """
    confidence = np.asarray(probabilities, dtype=np.float64).max(axis=1)
    variances = np.bincount(_bins(confidence), confidence * (1 - confidence), CALIBRATION_BINS)
    return _distance_by_chance(variances.astype(np.float64), len(confidence))


def greatest_calibration_by_chance(accuracy: float, images: int) -> float:
    """The maximum of `calibration_by_chance` for this share of right answers: with as much
    variance in each bin."""
    variance = images * accuracy * (1 - accuracy)
    bins = min(CALIBRATION_BINS, images)
    return _distance_by_chance(np.full(bins, variance / bins), images)


def _distance_by_chance(variances: NDArray[np.float64], images: int) -> float:
    """Mean and three standard errors of the summed distances of normal variables from 0."""
    mean = math.sqrt(2 / math.pi) * np.sqrt(variances).sum()
    error = math.sqrt((1 - 2 / math.pi) * variances.sum())
    return float(mean + _GRANTED * error) / images


def worst_mistakes(probabilities: ArrayLike, labels: ArrayLike, count: int) -> NDArray[np.int64]:
    """Indices of at most `count` wrong predictions, most confident first."""
    p, y = np.asarray(probabilities), np.asarray(labels)
    wrong = np.flatnonzero(p.argmax(axis=1) != y)
    order = np.argsort(-p.max(axis=1)[wrong], kind="stable")
    return wrong[order][:count]


def checked(
    probabilities: ArrayLike, labels: ArrayLike, classes: int
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Both as arrays, validated as `evaluate` promises."""
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


_DRAWS = 1000


def accuracy_interval(evaluation: Evaluation) -> Interval:
    """Wilson interval of the accuracy."""
    return wilson(int(np.trace(np.array(evaluation.confusion))), evaluation.images)


def recall_intervals(evaluation: Evaluation) -> list[Interval]:
    """Interval of each class's recall."""
    counts = np.array(evaluation.confusion)
    return [wilson(int(counts[k, k]), int(counts[k].sum())) for k in range(len(counts))]


def macro_f1_interval(evaluation: Evaluation) -> Interval:
    """Bootstrap interval, by resampling the confusion matrix."""
    counts, chance = np.array(evaluation.confusion), np.random.default_rng(0)
    label, guess = np.nonzero(counts)  # at most one cell per image
    shares, classes = counts[label, guess] / evaluation.images, len(counts)
    means = []
    for _ in range(_DRAWS):  # one at a time: with a thousand classes, all together take gigabytes
        drawn = chance.multinomial(evaluation.images, shares)
        hits = np.bincount(label, drawn * (label == guess), classes)
        sums = np.bincount(label, drawn, classes) + np.bincount(guess, drawn, classes)
        means.append(float((2 * hits[sums > 0] / sums[sums > 0]).mean()))
    low, high = np.percentile(means, (2.5, 97.5))
    return Interval(float(low), float(high))


def loss_interval(
    probabilities: NDArray[np.floating], labels: NDArray[np.integer], classes: Sequence[str]
) -> Interval:
    """Interval of the mean cross-entropy, by the normal approximation."""
    p, y = checked(probabilities, labels, len(classes))
    losses = _cross_entropy(p, y)
    reach = Z * float(losses.std()) / np.sqrt(len(losses))
    return Interval(float(losses.mean() - reach), float(losses.mean() + reach))
