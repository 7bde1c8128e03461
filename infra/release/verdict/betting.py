"""Betting e-processes for the mean of bounded observations: valid at every look.

Someone doubts that a mean is m, and bets on every observation at odds that are fair or worse if it
is. Fair play multiplies a stake by 1/a with a chance of a at most, however long it lasts and
whenever it stops (Ville 1939): a stake grown 500-fold is evidence at level 0.002 against the mean.

Source: Waudby-Smith and Ramdas 2024, "Estimating means of bounded random variables by betting",
Journal of the Royal Statistical Society B 86:1-27, arXiv:2010.09686. Bets are constant and mixed
over a grid, so counts are all that the stake depends on.
"""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Side = Literal["above", "below"]

# Parts of the largest bet that cannot go broke. Rare events are bet on with the small ones.
_PARTS = np.array([0.001, 0.005, 0.02, 0.06, 0.15, 0.35, 0.65, 0.95])


def log_odds(counts: Any, values: Sequence[float], mean: Any, side: Side) -> Floats:
    """Logarithm of a stake's growth that was bet on the true mean lying beyond `mean`.

    Args:
        counts: (..., K), how often each of the values was seen.
        values: (K,), increasing; the first and the last bound all values.
        mean: (...), between these bounds, the mean at most (side "above") or at least ("below").

    Returns:
        (...); a mean that does not lie beyond makes exp of it reach 1/a ever with a chance of a.
    """
    values_ = np.asarray(values, np.float64)
    mean_ = np.asarray(mean, np.float64)[..., None, None]
    gains = (values_[:, None] - mean_) * (1 if side == "above" else -1)
    worst = mean_ - values_[0] if side == "above" else values_[-1] - mean_
    growth = np.log1p(gains * _PARTS / np.maximum(worst, 1e-12))  # (..., K, G)
    seen = np.asarray(counts, np.float64)
    return log_mean_exp(np.squeeze(np.matmul(seen[..., None, :], growth), -2))


def bound(counts: Any, values: Sequence[float], odds: float, side: Side) -> Floats:
    """The bound of the mean that bets at these odds leave: a confidence sequence's end.

    Args:
        counts, values: as for `log_odds`.
        odds: 1/a: the bound is ever wrong with a chance of a at most.
        side: "below" is the lower end, "above" the upper.
    """
    low = np.full(np.shape(counts)[:-1], float(values[0]))
    high = np.full_like(low, float(values[-1]))
    against: Side = "above" if side == "below" else "below"
    for _ in range(30):
        middle = (low + high) / 2
        # The lower end is the least mean that was not refuted by what lies above it.
        refuted = log_odds(counts, values, middle, against) >= np.log(odds)
        up = refuted if side == "below" else ~refuted
        low, high = np.where(up, middle, low), np.where(up, high, middle)
    return low if side == "below" else high


def log_mean_exp(logs: Floats) -> Floats:
    """Logarithm of the mean of exponentials along the last axis, which cannot overflow."""
    top: Floats = logs.max(axis=-1)
    mean: Floats = top + np.log(np.exp(logs - top[..., None]).mean(axis=-1))
    return mean
