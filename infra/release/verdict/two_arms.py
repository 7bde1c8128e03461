"""An e-process for two arms: do events happen more often to the candidate than to stable?

Each window is a bet of its own on two shares against a common one, so what changes with time for
both arms (an outage, a busy hour, the canary's growing part of the traffic) is no evidence.

With shares s < c proposed for n stable and m canary requests, and t = (ns + mc)/(n + m), the ratio
of the likelihoods of (s, c) and of (t, t) is expected to be 1 at most under any true shares S >= C:
with a = (c - t)/(t(1 - t)) and b = (t - s)/(t(1 - t)), ma = nb, it is
(1 + a(C - t))^m (1 - b(S - t))^n <= exp(ma(C - S)) <= 1. Products over windows and averages over
proposals stay below 1 too, and so do they at whatever window one stops (Ville 1939).

Source: Turner, Ly and Grünwald 2024, "Generic E-variables for exact sequential k-sample tests that
allow for optional stopping", J. of Statistical Planning and Inference 230, arXiv:2106.02693.
"""

from itertools import combinations
from typing import Any

import numpy as np

from infra.release.verdict.betting import Floats, log_mean_exp

_SHARES = (0.0001, 0.0005, 0.002, 0.008, 0.025, 0.06, 0.12, 0.25, 0.4, 0.55, 0.7, 0.85, 0.97)
_STABLE, _CANARY = np.array(tuple(combinations(_SHARES, 2))).T  # proposals, all pairs s < c


def log_odds(stable: Any, stable_of: Any, canary: Any, canary_of: Any) -> Floats:
    """Logarithm of the odds, after each window, that it happens to the canary more often.

    Args:
        stable, canary: (..., W), how often it happened in each window.
        stable_of, canary_of: (..., W), requests in each window.

    Returns:
        (..., W); if it happens no more often, exp of it ever reaches 1/a with a chance of a.
    """
    n, m = np.asarray(stable_of, np.float64), np.asarray(canary_of, np.float64)
    both = np.maximum(n + m, 1)[..., None]
    shared = (n[..., None] * _STABLE + m[..., None] * _CANARY) / both  # (..., W, G)
    shared = np.where(n[..., None] + m[..., None] > 0, shared, 0.5)
    growth = np.stack(
        [
            np.log(_STABLE / shared),
            np.log((1 - _STABLE) / (1 - shared)),
            np.log(_CANARY / shared),
            np.log((1 - _CANARY) / (1 - shared)),
        ],
        axis=-2,
    )  # (..., W, 4, G)
    y, x, n, m = np.broadcast_arrays(stable, canary, n, m)
    seen = np.stack([y, n - y, x, m - x], axis=-1)[..., None, :]
    return log_mean_exp(np.cumsum(np.squeeze(np.matmul(seen, growth), -2), axis=-2))
