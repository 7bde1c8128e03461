"""Whether a candidate is better than the champion on labelled captures that neither was trained on,
and how many labels such a question needs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from ml.registry.ledger import Gate
from ml.registry.outcomes import Comparison, compare_paired

POWER = 0.8  # chance of finding a gain that is there
_MOST = 1_000_000


@dataclass(frozen=True)
class LiveComparison:
    """A candidate and the champion on the live test.

    Attributes:
        paired: McNemar's exact test, image by image.
        weighted: the gain in accuracy over all of the traffic, each image weighted by how many
            answers stand behind it.
        needed: about how many images would show a gain like this one; None where there is none.
    """

    images: int
    candidate: float
    champion: float
    paired: Comparison
    weighted: float
    needed: int | None

    def is_better(self, alpha: float) -> bool:
        """Whether the gain is no chance, and one for the traffic too."""
        return self.paired.is_superior(alpha) and self.weighted > 0

    def gate(self, alpha: float) -> Gate:
        """As one of the registry's."""
        found = self.paired
        detail = (
            f"{self.candidate:.2%} against {self.champion:.2%} on {self.images:,} labelled "
            f"captures, {100 * self.weighted:+.2f} points of the traffic ({found.method}: "
            f"p = {found.p_value:.2g}; {found.detail}); must be better with p below {alpha:g}"
        )
        return Gate("on live labels", self.is_better(alpha), detail, {**vars(found)})


def compare_live(
    candidate: NDArray[np.bool_],
    champion: NDArray[np.bool_],
    weights: NDArray[np.float64],
    alpha: float,
) -> LiveComparison:
    """Compares on the same images.

    Args:
        candidate, champion: (N,), whether each is right.
        weights: (N,), how many answers stand behind each image.

    Raises:
        ValueError: there are none.
    """
    paired = compare_paired(candidate, champion, alpha)
    difference = candidate.astype(float) - champion.astype(float)
    weighted = float((weights * difference).sum() / weights.sum())
    discordant = float(np.abs(difference).mean())
    needed = labels_needed(paired.difference, discordant, alpha) if weighted > 0 else None
    images = len(candidate)
    return LiveComparison(
        images, float(candidate.mean()), float(champion.mean()), paired, weighted, needed
    )


def labels_needed(gain: float, discordant: float, alpha: float, power: float = POWER) -> int | None:
    """About how many images McNemar's test needs to find a gain with a chance of `power`.

    The paired difference of one image has the variance d - g² where a share d of the images is
    answered rightly by one model alone. Source: Connor 1987, "Sample size for testing differences
    in proportions for the paired-sample design", Biometrics 43:207-211.

    Args:
        gain: of accuracy, as a share.
        discordant: the share of images that one of the models alone gets right, at least `gain`.
        alpha: of the two-sided test.

    Returns:
        None where there is no gain to be found.
    """
    if gain <= 0:
        return None
    normal, discordant = NormalDist(), min(1.0, max(gain, discordant))
    chance = normal.inv_cdf(1 - alpha / 2) * math.sqrt(discordant)
    reach = normal.inv_cdf(power) * math.sqrt(discordant - gain**2)
    # No fewer than a coin needs that falls on one side each time.
    least = (1 - math.log2(alpha)) / discordant
    exact = 2 / gain  # what the exact test asks for beyond the normal limit (measured: 80 to 84 %)
    return min(_MOST, math.ceil(max(least, ((chance + reach) / gain) ** 2 + exact)))
