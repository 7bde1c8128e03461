"""Tests whether a candidate is better than the champion on labelled captures that neither was
trained on, and how many labels that takes."""

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from ml.registry.ledger import Gate
from ml.registry.outcomes import Comparison, compare_paired

POWER = 0.8  # probability of detecting a gain that exists
_MOST = 1_000_000


@dataclass(frozen=True)
class LiveComparison:
    """A candidate and the champion on the live test set.

    Attributes:
        paired: McNemar's exact test, image by image.
        weighted: the gain in accuracy on the whole traffic, each image weighted by the number of
            answers that it represents.
        needed: roughly how many images would show a gain like this one; None if there is no gain.
    """

    images: int
    candidate: float
    champion: float
    paired: Comparison
    weighted: float
    needed: int | None

    def is_better(self, alpha: float) -> bool:
        """Whether the gain is significant, and also a gain on the whole traffic."""
        return self.paired.is_superior(alpha) and self.weighted > 0

    def gate(self, alpha: float) -> Gate:
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
    """Compares both models on the same images.

    Args:
        candidate, champion: (N,), whether each answer is correct.
        weights: (N,), number of answers that each image represents.

    Raises:
        ValueError: there are no images.
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
    """Roughly how many images McNemar's test needs to detect a gain with a probability of `power`.

    The paired difference of one image has the variance d - g², where d is the share of the images
    that only one of the models gets right. Source: Connor 1987, "Sample size for testing
    differences in proportions for the paired-sample design", Biometrics 43:207-211.

    Args:
        gain: in accuracy, as a share.
        discordant: the share of the images that only one of the models gets right, at least `gain`.
        alpha: of the two-sided test.

    Returns:
        None if there is no gain to detect.
    """
    if gain <= 0:
        return None
    normal, discordant = NormalDist(), min(1.0, max(gain, discordant))
    chance = normal.inv_cdf(1 - alpha / 2) * math.sqrt(discordant)
    reach = normal.inv_cdf(power) * math.sqrt(discordant - gain**2)
    # At least as many as if all discordant images favoured the candidate.
    least = (1 - math.log2(alpha)) / discordant
    exact = 2 / gain  # what the exact test needs beyond the normal limit (measured: 80 to 84 %)
    return min(_MOST, math.ceil(max(least, ((chance + reach) / gain) ** 2 + exact)))
