"""Accuracy on labelled predictions, by inverse-probability weighting, valid at every look.

Unsure predictions are captured and labelled more often than confident ones. Each is therefore
weighted by the inverse of its probability of being captured and labelled, and the interval comes
from betting on the mean of such a sample (`common.betting`), so it remains valid when labels arrive
one by one and are evaluated after each.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.betting import weighted_bound
from common.captures import CapturedAnswer, Verdict
from ml.live.estimate import LEVEL, Interval

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Sample:
    """N labelled predictions.

    Attributes:
        answers, labels: (N,), class indices.
        weights: (N,), inverse probabilities of having been captured and labelled.
        most: upper limit of the weights.
        chosen: labellers chose what to label, so the labelling probabilities are unknown and
            assumed equal.
            to be equally likely, which is an assumption.
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
