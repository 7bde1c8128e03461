"""Accuracy on labelled answers, by inverse-probability weighting, valid at every look.

Unsure answers are kept and labelled more often than sure ones. Each one therefore counts by one
over the chance that it had of being kept and of being labelled, and the interval is what bets
against the mean of such a sample leave (`common.betting`): labels may arrive one by one, and be
looked at after each.
"""

from __future__ import annotations

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
    """N labelled answers.

    Attributes:
        answers, labels: (N,), class indices.
        weights: (N,), one by the chance of having been kept and labelled.
        most: what no weight can exceed.
        chosen: nobody knows how likely each was to be labelled, since whoever labelled chose: taken
            to be equally likely, which is an assumption.
        left_out: numbers of labels that could not be used, by reason.
    """

    answers: NDArray[np.int64]
    labels: NDArray[np.int64]
    weights: Floats
    most: float
    chosen: bool
    left_out: Mapping[str, int]


@dataclass(frozen=True)
class LabelledAccuracy:
    """What labels say of a model's answers. Rates by class are NaN where no label is.

    Attributes:
        precision, recall: (K,), an interval a class.
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
    """The labelled ones of a version's captured answers.

    Where some labels were drawn with a known chance, those that somebody chose to give are left
    out.

    Args:
        rows: all answers of the version, or those of a span of time.
        verdicts: `Captures.verdicts`.
        classes: of the model, by index.
        ambiguous: as `used_twice` has it.
        least_kept: the chance of the version's surest answer to be kept.
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


def labelled_accuracy(
    labelled: Sample, classes: int, level: float = LEVEL
) -> LabelledAccuracy | None:
    """Accuracy and rates by class of a sample; None without a label.

    Each interval is valid by itself, at every look.
    """
    if not len(labelled.labels):
        return None
    right = (labelled.answers == labelled.labels).astype(float)

    def rate(of: NDArray[np.bool_]) -> Interval:
        return _interval(labelled.weights[of], right[of], labelled.most, level)

    return LabelledAccuracy(
        rows=len(right),
        accuracy=rate(np.ones(len(right), bool)),
        precision=tuple(rate(labelled.answers == k) for k in range(classes)),
        recall=tuple(rate(labelled.labels == k) for k in range(classes)),
        chosen=labelled.chosen,
        left_out=labelled.left_out,
    )


def _interval(weights: Floats, right: Floats, most: float, level: float) -> Interval:
    if not len(weights):
        return Interval(np.nan, 0.0, 1.0)
    odds = 2 / (1 - level)
    value = float((weights * right).sum() / weights.sum())
    low, high = (weighted_bound(weights, right, most, odds, side) for side in ("below", "above"))
    return Interval(value, min(low, value), max(high, value))
