"""95 % confidence intervals of proportions."""

from math import sqrt
from typing import NamedTuple

Z = 1.959964  # 97.5 % quantile of the normal distribution


class Interval(NamedTuple):
    """A confidence interval."""

    low: float
    high: float


def wilson(hits: int, trials: int) -> Interval:
    """Wilson interval of a proportion; (0, 1) without trials.

    Source: Wilson 1927, https://doi.org/10.1080/01621459.1927.10502953
    """
    if trials == 0:
        return Interval(0.0, 1.0)
    share, z2 = hits / trials, Z**2 / trials
    centre = (share + z2 / 2) / (1 + z2)
    reach = Z * sqrt(share * (1 - share) / trials + z2 / (4 * trials)) / (1 + z2)
    low = 0.0 if hits == 0 else centre - reach  # exact, whatever the rounding
    high = 1.0 if hits == trials else centre + reach
    return Interval(low, high)
