"""E-processes, valid at every look: for the mean of bounded observations, for the mean of a
weighted sample, and for the comparison of two arms.

To test whether a mean is m, bet on every observation at odds that are fair or worse if it
is. Fair play multiplies a stake by 1/a with a chance of a at most, however long it lasts and
whenever it stops (Ville 1939): a stake grown 500-fold is evidence at level 0.002 against the mean.

Sources: Waudby-Smith and Ramdas 2024, "Estimating means of bounded random variables by betting",
Journal of the Royal Statistical Society B 86:1-27, arXiv:2010.09686, with constant bets mixed over
a grid, so that counts are all that the stake depends on. Turner, Ly and Grünwald 2024,
"Generic E-variables for exact sequential k-sample tests that allow for optional stopping", Journal
of Statistical Planning and Inference 230, arXiv:2106.02693, for two arms.
"""

from collections.abc import Sequence
from itertools import combinations
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Side = Literal["above", "below"]

# Fractions of the largest bet that cannot go broke; the small ones suit rare events.
_PARTS = np.array([0.001, 0.005, 0.02, 0.06, 0.15, 0.35, 0.65, 0.95])


def log_odds(counts: Any, values: Sequence[float], mean: Any, side: Side) -> Floats:
    """Log wealth of a bettor who claims that the true mean lies beyond `mean`.

    Args:
        counts: (..., K), how often each of the values was seen.
        values: (K,), increasing; the first and the last bound all values.
        mean: (...), between these bounds, the mean at most (side "above") or at least ("below").

    Returns:
        (...); if the claim is false, exp of it ever reaches 1/a with probability at most a.
    """
    values_ = np.asarray(values, np.float64)
    mean_ = np.asarray(mean, np.float64)[..., None, None]
    gains = (values_[:, None] - mean_) * (1 if side == "above" else -1)
    worst = mean_ - values_[0] if side == "above" else values_[-1] - mean_
    growth = np.log1p(gains * _PARTS / np.maximum(worst, 1e-12))  # (..., K, G)
    seen = np.asarray(counts, np.float64)
    return log_mean_exp(np.squeeze(np.matmul(seen[..., None, :], growth), -2))


def bound(counts: Any, values: Sequence[float], odds: float, side: Side) -> Floats:
    """The end of a confidence sequence for the mean at these odds.

    Args:
        counts, values: as for `log_odds`.
        odds: 1/a; the bound is ever wrong with probability at most a.
        side: "below" is the lower end, "above" the upper.
    """
    # Releases side by side have often seen the same few counts: each is searched for once.
    rows = np.reshape(np.asarray(counts, np.float64), (-1, len(values)))
    distinct, place = np.unique(rows, axis=0, return_inverse=True)
    low = np.full(len(distinct), float(values[0]))
    high = np.full_like(low, float(values[-1]))
    against: Side = "above" if side == "below" else "below"
    for _ in range(30):
        middle = (low + high) / 2
        # The lower end is the smallest mean that was not refuted from above.
        refuted = log_odds(distinct, values, middle, against) >= np.log(odds)
        up = refuted if side == "below" else ~refuted
        low, high = np.where(up, middle, low), np.where(up, high, middle)
    found: Floats = (low if side == "below" else high)[place.ravel()]
    return found.reshape(np.shape(counts)[:-1])


def weighted_log_odds(weights: Any, values: Any, mean: float, most: float, side: Side) -> Floats:
    """`log_odds` after each observation of a sample drawn with unequal probabilities.

    With the chance 1/w of being drawn, known before the value is, w(x - mean) is expected to be 0
    under the true mean of everything, whatever the chances depend on. The bet is the same for all
    weights: one that followed them would no longer be fair.

    Args:
        weights: (N,), inverse probabilities of having been drawn.
        values: (N,), within 0..1, in the order in which they were seen.
        mean: within 0..1.
        most: upper limit of all weights, from the sampling plan.

    Returns:
        (N,); if the claim is false, exp of it ever reaches 1/a with probability at most a.
    """
    return log_mean_exp(np.cumsum(_weighted_growth(weights, values, mean, most, side), axis=0))


def weighted_bound(weights: Any, values: Any, most: float, odds: float, side: Side) -> float:
    """Arguments as for `weighted_log_odds`, result as for `bound`."""
    low, high = 0.0, 1.0
    against: Side = "above" if side == "below" else "below"
    for _ in range(30):
        middle = (low + high) / 2
        growth = _weighted_growth(weights, values, middle, most, against).sum(axis=0)
        refuted = bool(log_mean_exp(growth) >= np.log(odds))
        low, high = (middle, high) if refuted == (side == "below") else (low, middle)
    return low if side == "below" else high


def _weighted_growth(weights: Any, values: Any, mean: float, most: float, side: Side) -> Floats:
    """(N, G): log growth of each stake at each observation."""
    weights_, values_ = np.asarray(weights, np.float64), np.asarray(values, np.float64)
    gains = weights_ * (values_ - mean) * (1 if side == "above" else -1)
    worst = max(most * (mean if side == "above" else 1 - mean), 1e-12)
    return np.log1p(gains[:, None] * (_PARTS / worst))


def log_mean_exp(logs: Floats) -> Floats:
    """Logarithm of the mean of exponentials along the last axis, without overflow."""
    top: Floats = logs.max(axis=-1)
    below = logs - top[..., None]
    mean: Floats = top + np.log(np.exp(below, out=below).mean(axis=-1))
    return mean


_SHARES = (0.0001, 0.0005, 0.002, 0.008, 0.025, 0.06, 0.12, 0.25, 0.4, 0.55, 0.7, 0.85, 0.97)
_STABLE, _CANDIDATE = np.array(tuple(combinations(_SHARES, 2))).T  # proposals, all pairs s < c
_STABLE_REST, _CANDIDATE_REST = np.log(1 - _STABLE), np.log(1 - _CANDIDATE)
_STABLE_LOGIT = np.log(_STABLE) - _STABLE_REST
_CANDIDATE_LOGIT = np.log(_CANDIDATE) - _CANDIDATE_REST


def two_arm_log_odds(stable: Any, stable_of: Any, candidate: Any, candidate_of: Any) -> Floats:
    """Log odds, after each window, that the event is more frequent for the candidate.

    Each window is a bet of its own on two shares against a common one, so what changes with time
    for both arms (an outage, a busy hour, the candidate's growing traffic) is no evidence.

    With shares s < c proposed for n stable and m candidate requests, and t = (ns + mc)/(n + m), the
    ratio of the likelihoods of (s, c) and of (t, t) is expected to be 1 at most under any true
    shares S >= C: with a = (c - t)/(t(1 - t)) and b = (t - s)/(t(1 - t)), ma = nb, it is
    (1 + a(C - t))^m (1 - b(S - t))^n <= exp(ma(C - S)) <= 1. Products over windows and averages
    over proposals stay below 1 too, and so do they at whatever window one stops.

    Args:
        stable, candidate: (..., W), events in each window.
        stable_of, candidate_of: (..., W), requests in each window.

    Returns:
        (..., W); if it is no more frequent, exp of it ever reaches 1/a with probability at most a.
    """
    y, n, x, m = (
        np.asarray(count, np.float64)[..., None]
        for count in (stable, stable_of, candidate, candidate_of)
    )
    shared = np.where(n + m > 0, (n * _STABLE + m * _CANDIDATE) / np.maximum(n + m, 1), 0.5)
    rest = np.log(1 - shared)  # (..., W, G)
    tilt = rest - np.log(shared)
    quiet = n * (_STABLE_REST - rest) + m * (_CANDIDATE_REST - rest)
    growth = quiet + y * (_STABLE_LOGIT + tilt) + x * (_CANDIDATE_LOGIT + tilt)
    return log_mean_exp(np.cumsum(growth, axis=-2))
