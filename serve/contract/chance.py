"""How likely chance alone is to produce a statistic: tails of distributions, and their inverses."""

from collections.abc import Callable
from functools import cache
from math import erfc, exp, lgamma, log, sqrt


def chi_square_tail(value: float, freedom: int) -> float:
    """P(X >= value) of a chi-square distribution; 1 without a degree of freedom.

    Source: Abramowitz & Stegun 26.4.4 and 26.4.5, finite sums for whole degrees of freedom.
    """
    x = value / 2
    if freedom <= 0 or x <= 0:
        return 1.0
    a, total = (0.5, erfc(sqrt(x))) if freedom % 2 else (1.0, exp(-x))
    while a < freedom / 2:
        total += exp(a * log(x) - x - lgamma(a + 1))
        a += 1
    return min(1.0, total)


def ks_tail(value: float) -> float:
    """P(K >= value) of Kolmogorov's distribution, the limit of sqrt(n) times the distance.

    Source: Smirnov 1948; the alternating series converges in a few terms above 0.2: those left out
    here are below exp(-50).
    """
    if value < 0.2:
        return 1.0
    last = int(5 / value) + 1
    terms = (exp(-2 * (k * value) ** 2) * (1 if k % 2 else -1) for k in range(1, last + 1))
    return min(1.0, max(0.0, 2 * sum(terms)))


@cache
def chi_square_quantile(level: float, freedom: int) -> float:
    """The value that a chi-square distribution exceeds with probability `level`."""
    return _inverse(lambda value: chi_square_tail(value, freedom), level) if freedom > 0 else 0.0


@cache
def ks_quantile(level: float) -> float:
    """The value that Kolmogorov's distribution exceeds with probability `level`."""
    return _inverse(ks_tail, level)


def _inverse(tail: Callable[[float], float], level: float) -> float:
    """Where a falling tail meets a level in 0..1, by bisection."""
    low, high = 0.0, 1.0
    while tail(high) > level:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if tail(middle) > level else (low, middle)
    return high
