"""What labels of live images prove: how many of them are wrong, whether a candidate is better than
the champion on captures that neither was trained on, and how many labels that takes.

A label is suspect if the model in production and a second model confidently predict the same other
class. The second is a logistic regression on the first one's answers, cross-validated on the labels
in five parts, so that it learns how the images differ from the model's own data. This is the
cross-validation of confident learning (Northcutt, Jiang and Chuang 2021, "Confident learning:
estimating uncertainty in dataset labels", JAIR 70, arXiv:1911.00068), but only the more confident
half counts, since a classifier that a shift has made worse is wrong where it is uncertain. If the
two models agree on less than 30 % of the answers, the shift has made the first too unreliable and
there is no estimate: the gates alone decide. Measured on CIFAR-10 under a corruption that cost 20
points: 11.5 % of correct labels are contradicted, and 27.8 % of labels of which a fifth are wrong.
"""

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from common.intervals import wilson
from ml.registry.ledger import Gate
from ml.registry.outcomes import Comparison, compare_paired

POWER = 0.8  # probability of detecting a gain that exists
_MOST = 1_000_000
_PARTS = 5
_FEWEST = 40  # minimum number of labels; a tenth of it must be agreed answers
_AUTHORITY = 0.3  # minimum share of the answers on which both models agree
_LEAST = 1e-4  # lower limit of probabilities before the logarithm


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


def labels_needed(gain: float, discordant: float, alpha: float) -> int | None:
    """Roughly how many images McNemar's test needs to detect a gain with a probability of `POWER`.

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
    reach = normal.inv_cdf(POWER) * math.sqrt(discordant - gain**2)
    # At least as many as if all discordant images favoured the candidate.
    least = (1 - math.log2(alpha)) / discordant
    exact = 2 / gain  # what the exact test needs beyond the normal limit (measured: 80 to 84 %)
    return min(_MOST, math.ceil(max(least, ((chance + reach) / gain) ** 2 + exact)))


@dataclass(frozen=True)
class LabelNoise:
    """The share of wrong labels among those that can be judged.

    Attributes:
        share, low: the share and the lower end of its 95 % interval (Wilson); None if too few
            labels can be judged.
        judged: number of labels on which both models are confident.
        suspects: indices of the labels that both contradict, the most confident first.
    """

    share: float | None
    low: float | None
    judged: int
    suspects: tuple[int, ...]


def label_noise(probabilities: NDArray[np.floating], labels: NDArray[np.int64]) -> LabelNoise:
    """Estimates the label noise from a model's answers.

    Args:
        probabilities: (N, K), of a model that was not trained on these labels.
        labels: (N,), class indices.
    """
    if len(labels) < _FEWEST or len(np.unique(labels)) < 2:
        return LabelNoise(None, None, 0, ())
    second = _cross_validated(probabilities, labels)
    said, confidence = second.argmax(axis=1), second.max(axis=1)
    agreed = said == probabilities.argmax(axis=1)
    if agreed.mean() < _AUTHORITY or agreed.sum() < _FEWEST // 10:
        return LabelNoise(None, None, 0, ())
    sure = agreed & (confidence >= np.median(confidence[agreed]))
    wrong = sure & (said != labels)
    interval = wilson(int(wrong.sum()), int(sure.sum()))
    suspects = np.flatnonzero(wrong)
    ranked = suspects[np.argsort(-confidence[suspects], kind="stable")]
    share = float(wrong.sum() / sure.sum())
    return LabelNoise(share, interval.low, int(sure.sum()), tuple(map(int, ranked)))


def _cross_validated(
    probabilities: NDArray[np.floating], labels: NDArray[np.int64]
) -> NDArray[np.float64]:
    """(N, K): predictions of a logistic regression for labels on which it was not fitted."""
    features = np.log(np.clip(probabilities, _LEAST, 1))
    part = np.random.default_rng(0).permutation(len(labels)) % _PARTS
    answers = np.zeros(probabilities.shape)
    for number in range(_PARTS):
        seen = part != number
        if len(classes := np.unique(labels[seen])) < 2:
            answers[~seen, classes[0]] = 1.0
            continue
        model = LogisticRegression(C=0.1, max_iter=5000).fit(features[seen], labels[seen])
        answers[np.ix_(~seen, model.classes_)] = model.predict_proba(features[~seen])
    return answers
