"""How far test scores may be off by chance: 95 % intervals."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ml.evaluation import Evaluation, checked

_Z = 1.959964  # 97.5 % of a normal distribution lie below
_DRAWS = 1000


class Interval(NamedTuple):
    """Two ends."""

    low: float
    high: float


def wilson(hits: int, trials: int) -> Interval:
    """Of a share; (0, 1) if nothing was tried.

    Source: Wilson 1927, https://doi.org/10.1080/01621459.1927.10502953
    """
    if trials == 0:
        return Interval(0.0, 1.0)
    share, z2 = hits / trials, _Z**2 / trials
    centre = (share + z2 / 2) / (1 + z2)
    reach = _Z * np.sqrt(share * (1 - share) / trials + z2 / (4 * trials)) / (1 + z2)
    low = 0.0 if hits == 0 else float(centre - reach)  # exactly so, whatever the rounding
    high = 1.0 if hits == trials else float(centre + reach)
    return Interval(low, high)


def accuracy_interval(evaluation: Evaluation) -> Interval:
    """Of the share of images that are classified right."""
    return wilson(_hits(evaluation), evaluation.images)


def recall_intervals(evaluation: Evaluation) -> list[Interval]:
    """Of each class's recall."""
    counts = np.array(evaluation.confusion)
    return [wilson(int(counts[k, k]), int(counts[k].sum())) for k in range(len(counts))]


def macro_f1_interval(evaluation: Evaluation, seed: int = 0) -> Interval:
    """By drawing the confusion matrix again and again (bootstrap)."""
    counts = np.array(evaluation.confusion)
    draws = np.random.default_rng(seed).multinomial(
        evaluation.images, counts.reshape(-1) / evaluation.images, size=_DRAWS
    )
    draws = draws.reshape(_DRAWS, *counts.shape)
    hits = np.diagonal(draws, axis1=1, axis2=2)
    sums = draws.sum(axis=1) + draws.sum(axis=2)
    f1 = np.divide(2 * hits, sums, out=np.full(hits.shape, np.nan), where=sums > 0)
    return _middle(np.nanmean(f1, axis=1))


def loss_interval(
    probabilities: NDArray[np.floating],
    labels: NDArray[np.integer],
    classes: Sequence[str],
) -> Interval:
    """Of the mean cross-entropy, whose mean over thousands of images is all but normal."""
    p, y = checked(probabilities, labels, len(classes))
    losses = -np.log(np.maximum(p[np.arange(len(y)), y], float(np.finfo(np.float32).tiny)))
    reach = _Z * float(losses.std()) / np.sqrt(len(losses))
    return Interval(float(losses.mean() - reach), float(losses.mean() + reach))


def _hits(evaluation: Evaluation) -> int:
    return int(np.trace(np.array(evaluation.confusion)))


def _middle(values: NDArray[np.float64]) -> Interval:
    low, high = np.percentile(values, (2.5, 97.5))
    return Interval(float(low), float(high))
