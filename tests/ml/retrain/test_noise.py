"""ml/retrain/noise.py: wrong labels are noticed, and a model that is lost is no witness."""

import numpy as np
import pytest
from numpy.typing import NDArray

from ml.retrain.noise import label_noise

K, N = 10, 1500


def answers(right: float, seed: int = 0) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Answers of a model that is right with such a chance, surer where it is; and the truth."""
    random = np.random.default_rng(seed)
    truth = random.integers(0, K, N)
    is_right = random.random(N) < right
    said = np.where(is_right, truth, (truth + random.integers(1, 3, N)) % K)
    top = np.where(is_right, random.uniform(0.5, 1, N), random.uniform(0.2, 0.8, N))
    probabilities = np.full((N, K), 0.0)
    probabilities[:] = ((1 - top) / (K - 1))[:, None]
    probabilities[np.arange(N), said] = top
    return probabilities, truth


def flipped(labels: NDArray[np.int64], share: float) -> NDArray[np.int64]:
    random = np.random.default_rng(1)
    wrong = random.random(N) < share
    return np.where(wrong, (labels + random.integers(1, K, N)) % K, labels)


@pytest.mark.parametrize("seed", range(3))
def test_a_fifth_of_wrong_labels_is_told_from_none(seed: int) -> None:
    probabilities, truth = answers(0.75, seed)
    right, wrong = (label_noise(probabilities, labels) for labels in (truth, flipped(truth, 0.2)))
    assert right.share is not None
    assert wrong.share is not None
    assert right.share <= 0.15 < wrong.share
    assert set(wrong.suspects) & set(np.flatnonzero(flipped(truth, 0.2) != truth))


def test_a_model_that_the_shift_has_left_no_authority_is_not_asked() -> None:
    probabilities, truth = answers(0.2)
    found = label_noise(probabilities, truth)
    assert found.share is None
    assert found.suspects == ()


def test_few_labels_say_nothing() -> None:
    probabilities, truth = answers(0.9)
    assert label_noise(probabilities[:30], truth[:30]).share is None
