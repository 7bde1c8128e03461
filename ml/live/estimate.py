"""Accuracy of traffic: estimated from the model's probabilities, and measured by labels.

Confidence-based performance estimation: a prediction with a calibrated probability of 0.8 is right
four times in five, so the mean probability is the expected accuracy, and sums by class give the
confusion matrix (the method documented by NannyML). Predictions captured with probability p are
weighted by 1/p (Horvitz and Thompson 1952), normalised by the sum of weights (Hajek).

Labels: unsure predictions are captured and labelled more often than confident ones, so each is
weighted by the inverse of its probability of being captured and labelled. The interval comes from
betting on the mean of such a sample (`common.betting`): it remains valid when labels arrive one by
one and are evaluated after each.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.betting import weighted_bound
from common.captures import CapturedAnswer, Verdict

Floats = NDArray[np.float64]
LEVEL = 0.95  # confidence level of all intervals


@dataclass(frozen=True)
class Interval:
    """A proportion and its interval, all within 0..1."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Belief:
    """The probability of each of N predictions to be right, and its uncertainty.

    Attributes:
        right: (N,), the probability that a prediction is right.
        members: (B, N), the same from B bootstrap samples of the held-out images; B may be 0.
        doubt: standard deviation of a mean of `right` beyond the spread of the members.
        bias: possible systematic error, in one direction.
        recalibrated: from held-out images, not only the model's confidence.
    """

    right: Floats
    members: Floats
    doubt: float = 0.0
    bias: float = 0.0
    recalibrated: bool = False


@dataclass(frozen=True)
class ClassRates:
    """How often a class is predicted and true, and its precision and recall; NaN if undefined."""

    answered: float
    expected: float
    precision: Interval
    recall: Interval


@dataclass(frozen=True)
class Estimate:
    """The estimate for N predictions.

    Attributes:
        rows: N.
        answers: number of predictions of the traffic that they represent.
        confusion: (K, K), shares of the traffic: rows are true, columns predicted classes.
    """

    rows: int
    answers: float
    accuracy: Interval
    classes: tuple[ClassRates, ...]
    confusion: tuple[tuple[float, ...], ...]
    recalibrated: bool


def own_confidence(probabilities: Any, calibration_error: float = 0.0) -> Belief:
    """The model's confidence, its top probability, as belief.

    Args:
        probabilities: (N, K).
        calibration_error: of the model on its test images, as a bound of the bias.
    """
    right = np.asarray(probabilities, np.float64).max(axis=1)
    return Belief(right, np.empty((0, len(right))), bias=calibration_error)


def estimate(
    probabilities: Any,
    belief: Belief,
    kept: Any = 1.0,
    *,
    classes: bool = True,
) -> Estimate:
    """Estimates the traffic from which N predictions were captured.

    The interval covers the randomness of labels and of capture, and the uncertainty of calibration.

    Args:
        probabilities: (N, K), N >= 1.
        belief: for these N predictions.
        kept: (N,), capture probabilities.
        classes: whether to estimate rates of each class.

    Raises:
        ValueError: shapes disagree, there are no predictions, or a probability is outside 0..1.
    """
    p = np.asarray(probabilities, np.float64)
    chance = np.broadcast_to(np.asarray(kept, np.float64), len(p))
    if not len(p) or belief.right.shape != (len(p),):
        raise ValueError(
            f"{p.shape} probabilities, {belief.right.shape} beliefs: expected (N, K), (N,)"
        )
    if not (chance.min() > 0 and chance.max() <= 1):
        raise ValueError(
            f"chances of {chance.min():g} to {chance.max():g}: expected above 0, at most 1"
        )
    sums = _Sums(chance, belief, NormalDist().inv_cdf(0.5 + LEVEL / 2))
    truth = with_top(p, belief.right)
    said = np.eye(p.shape[1])[p.argmax(axis=1)]
    one = np.ones(len(p))
    confusion = (truth * sums.weights[:, None]).T @ said / sums.weights.sum()
    rates = []
    for k in range(p.shape[1] if classes else 0):
        rest = truth[:, k] / np.maximum(1 - belief.right, 1e-9)
        members = np.where(said[:, k] > 0, belief.members, rest * (1 - belief.members))
        rates.append(
            ClassRates(
                answered=float(confusion[:, k].sum()),
                expected=float(confusion[k].sum()),
                precision=sums.share(belief.right, said[:, k], belief.members),
                recall=sums.recall(truth[:, k], said[:, k], members),
            )
        )
    return Estimate(
        rows=len(p),
        answers=float(sums.weights.sum()),
        accuracy=sums.share(belief.right, one, belief.members),
        classes=tuple(rates),
        confusion=tuple(tuple(row) for row in confusion.tolist()),
        recalibrated=belief.recalibrated,
    )


def with_top(probabilities: Floats, right: Floats) -> Floats:
    """(N, K) probabilities whose top is `right`, with the others in their original proportions."""
    rows, answer = np.arange(len(right)), probabilities.argmax(axis=1)
    others = probabilities.copy()
    others[rows, answer] = 0
    total = others.sum(axis=1, keepdims=True)
    spread = np.where(total > 1e-12, others / np.maximum(total, 1e-12), 1 / (others.shape[1] - 1))
    spread[rows, answer] = 0
    found = spread * (1 - right)[:, None]
    found[rows, answer] = right
    return found


@dataclass(frozen=True)
class _Sums:
    """Weighted proportions with their uncertainty."""

    chance: Floats
    belief: Belief
    quantile: float

    @property
    def weights(self) -> Floats:
        found: Floats = 1 / self.chance
        return found

    def share(self, right: Floats, of: Floats, members: Floats) -> Interval:
        """The proportion of right ones among the rows marked by `of`."""
        w = self.weights * of
        if not (total := w.sum()):
            return Interval(np.nan, 0.0, 1.0)
        value = float((w * right).sum() / total)
        return self._interval(
            value,
            of * (right - value),
            of * right * (1 - right),
            total,
            (members * w).sum(axis=1) / total,
        )

    def recall(self, truth: Floats, said: Floats, members: Floats) -> Interval:
        """The proportion predicted as the class among rows truly of it; both numbers are
        estimated.
        """
        w = self.weights
        total = (w * truth).sum()
        if total < 1e-9:
            return Interval(np.nan, 0.0, 1.0)
        value = float((w * truth * said).sum() / total)
        return self._interval(
            value,
            truth * (said - value),
            truth * (1 - truth) * (said - value) ** 2,
            total,
            (members * w * said).sum(axis=1) / np.maximum((members * w).sum(axis=1), 1e-9),
        )

    def _interval(
        self, value: float, residual: Floats, variance: Floats, total: Any, members: Floats
    ) -> Interval:
        """The interval by linearisation: labels vary over the whole traffic, `residual` over the
        sampling.
        """
        w = self.weights
        labels = (w * variance).sum() / total**2
        kept = (w**2 * (1 - self.chance) * residual**2).sum() / total**2
        fits = members.var(ddof=1) if len(members) > 1 else 0.0
        spread = float(np.sqrt(labels + kept + fits + self.belief.doubt**2))
        half = self.quantile * spread + self.belief.bias
        return Interval(value, max(0.0, value - half), min(1.0, value + half))


@dataclass(frozen=True)
class Sample:
    """N labelled predictions.

    Attributes:
        answers, labels: (N,), class indices.
        weights: (N,), inverse probabilities of having been captured and labelled.
        most: upper limit of the weights.
        chosen: labellers chose what to label, so the labelling probabilities are unknown and
            assumed equal.
        left_out: number of unusable labels by reason.
    """

    answers: NDArray[np.int64]
    labels: NDArray[np.int64]
    weights: Floats
    most: float
    chosen: bool
    left_out: Mapping[str, int]


@dataclass(frozen=True)
class LabelledAccuracy:
    """Metrics of a model by labels. Rates of classes without labels are NaN.

    Attributes:
        precision, recall: (K,), an interval per class.
    """

    rows: int
    accuracy: Interval
    precision: tuple[Interval, ...]
    recall: tuple[Interval, ...]
    chosen: bool
    left_out: Mapping[str, int]


AMBIGUOUS, DISAGREED, FOREIGN, CHOSEN = (
    "ambiguous request id",
    "disagreement",
    "no such class",
    "chosen",
)


def used_twice(rows: Iterable[CapturedAnswer]) -> set[tuple[str, int]]:
    """Keys of answers that name none, since a caller used a request id again.

    Args:
        rows: of all versions.
    """
    return {key for key, times in Counter(row.key for row in rows).items() if times > 1}


def sample(
    rows: Sequence[CapturedAnswer],
    verdicts: Mapping[tuple[str, int], Verdict],
    classes: Sequence[str],
    ambiguous: Collection[tuple[str, int]],
    least_kept: float,
) -> Sample:
    """The labelled ones of a version's captured predictions.

    If some labels were sampled with known probability, chosen ones are left out.

    Args:
        rows: all predictions of the version, or those of a time span.
        verdicts: `Captures.verdicts`.
        classes: the model's classes, by index.
        ambiguous: from `used_twice`.
        least_kept: capture probability of the version's most confident prediction.
    """
    index = {name: number for number, name in enumerate(classes)}
    left_out = Counter[str]()
    found: list[tuple[CapturedAnswer, int, float | None]] = []
    for row in rows:
        if (verdict := verdicts.get(row.key)) is None:
            continue
        if row.key in ambiguous:
            left_out[AMBIGUOUS] += 1
        elif verdict.label is None:
            left_out[DISAGREED] += 1
        elif verdict.label not in index:
            left_out[FOREIGN] += 1
        else:
            found.append((row, index[verdict.label], verdict.propensity))
    drawn = [one for one in found if one[2] is not None]
    if drawn and len(drawn) < len(found):
        left_out[CHOSEN] = len(found) - len(drawn)
    used = drawn or found
    chances = np.array([row.probability * (chance or 1.0) for row, _, chance in used], np.float64)
    least = least_kept * min((chance or 1.0 for _, _, chance in used), default=1.0)
    return Sample(
        answers=np.array([row.answer for row, *_ in used], np.int64),
        labels=np.array([label for _, label, _ in used], np.int64),
        weights=1 / chances,
        most=1 / least,
        chosen=bool(found) and not drawn,
        left_out=dict(left_out),
    )


def labelled_accuracy(labelled: Sample, classes: int) -> LabelledAccuracy | None:
    """Accuracy and rates by class of a sample; None without labels.

    Each interval is individually valid, at every look.
    """
    if not len(labelled.labels):
        return None
    right = (labelled.answers == labelled.labels).astype(float)

    def rate(of: NDArray[np.bool_]) -> Interval:
        return _interval(labelled.weights[of], right[of], labelled.most)

    return LabelledAccuracy(
        rows=len(right),
        accuracy=rate(np.ones(len(right), bool)),
        precision=tuple(rate(labelled.answers == k) for k in range(classes)),
        recall=tuple(rate(labelled.labels == k) for k in range(classes)),
        chosen=labelled.chosen,
        left_out=labelled.left_out,
    )


def _interval(weights: Floats, right: Floats, most: float) -> Interval:
    if not len(weights):
        return Interval(np.nan, 0.0, 1.0)
    odds = 2 / (1 - LEVEL)
    value = float((weights * right).sum() / weights.sum())
    low, high = (weighted_bound(weights, right, most, odds, side) for side in ("below", "above"))
    return Interval(value, min(low, value), max(high, value))
