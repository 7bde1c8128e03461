"""ml/live/estimate: the accuracy to expect without labels."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml.live.estimate import Belief, Estimate, estimate, own_confidence, with_top


def answers(rows: int, seed: int, classes: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Calibrated probabilities, and labels drawn from them."""
    random = np.random.default_rng(seed)
    p = random.dirichlet(np.full(classes, 0.25), rows)
    return p, (p.cumsum(1) > random.random((rows, 1))).argmax(1)


def trusted(p: np.ndarray) -> Belief:
    return own_confidence(p)


def test_confusion_and_rates_are_sums_of_probabilities() -> None:
    p = np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8]])
    found = estimate(p, trusted(p))
    assert found.accuracy.value == pytest.approx((0.9 + 0.6 + 0.8) / 3)
    assert np.array(found.confusion) == pytest.approx(np.array([[1.5, 0.2], [0.5, 0.8]]) / 3)
    first = found.classes[0]
    assert first.precision.value == pytest.approx(0.75)
    assert first.recall.value == pytest.approx(1.5 / 1.7)
    assert first.answered == pytest.approx(2 / 3)
    assert first.expected == pytest.approx(1.7 / 3)


def test_an_answer_that_was_kept_with_a_chance_of_a_fifth_counts_five_times() -> None:
    p = np.array([[0.9, 0.1], [0.5, 0.5]])
    found = estimate(p, trusted(p), [0.2, 1.0])
    assert found.answers == pytest.approx(6)
    assert found.accuracy.value == pytest.approx((5 * 0.9 + 0.5) / 6)
    every = np.repeat(p, [5, 1], axis=0)
    same = np.array(estimate(every, trusted(every)).confusion)
    assert np.array(found.confusion) == pytest.approx(same)


def test_a_class_that_nobody_names_has_no_rate() -> None:
    p = np.array([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    found = estimate(p, trusted(p)).classes[2]
    assert np.isnan(found.precision.value)
    assert (found.recall.low, found.recall.high) == (0, 1)


def rates(found: Estimate) -> list[tuple[float, float]]:
    every = [
        found.accuracy,
        *(c.precision for c in found.classes),
        *(c.recall for c in found.classes),
    ]
    return [(rate.low, rate.high) for rate in every]


def truths(p: np.ndarray, labels: np.ndarray) -> list[float]:
    said = p.argmax(1)
    right = said == labels
    return [
        right.mean(),
        *(right[said == k].mean() for k in range(p.shape[1])),
        *(right[labels == k].mean() for k in range(p.shape[1])),
    ]


@pytest.mark.parametrize("share", [1.0, 0.1])
def test_intervals_hold_the_truth_of_the_whole_traffic_19_times_in_20(share: float) -> None:
    """Accuracy, precision and recall of 4 classes, on 300 streams of 1,000 calibrated answers."""
    held = np.zeros(9)
    for seed in range(300):
        p, labels = answers(1000, seed)
        kept = share + (1 - share) * (1 - p.max(1))
        chosen = np.random.default_rng(1000 + seed).random(1000) < kept
        found = estimate(p[chosen], trusted(p[chosen]), kept[chosen])
        held += [
            low <= t <= high for (low, high), t in zip(rates(found), truths(p, labels), strict=True)
        ]
    assert (held / 300).min() > 0.9
    assert (held / 300).mean() == pytest.approx(0.95, abs=0.02)


def test_what_is_not_known_of_the_calibration_widens_the_interval() -> None:
    p, _ = answers(1000, 0)
    right = p.max(1)
    members = np.clip(right + np.array([[-0.02], [0.0], [0.02]]), 0, 1)

    def width(belief: Belief) -> float:
        found = estimate(p, belief).accuracy
        return found.high - found.low

    alone = width(trusted(p))
    assert width(Belief(right, members)) > alone + 0.02
    assert width(Belief(right, np.empty((0, 1000)), bias=0.03)) == pytest.approx(alone + 0.06)
    assert width(Belief(right, np.empty((0, 1000)), doubt=0.02)) > alone + 0.02


@given(st.integers(0, 1000), st.integers(2, 6))
def test_moved_tops_leave_distributions(seed: int, classes: int) -> None:
    random = np.random.default_rng(seed)
    p = random.dirichlet(np.full(classes, 0.1), 5)
    right = random.random(5)
    moved = with_top(p, right)
    assert moved.sum(1) == pytest.approx(np.ones(5))
    assert moved[np.arange(5), p.argmax(1)] == pytest.approx(right)
    assert (moved >= 0).all()


@pytest.mark.parametrize("kept", [[0.0, 1.0], [1.0, 1.5]])
def test_chances_beyond_0_to_1_are_refused(kept: list[float]) -> None:
    p = np.array([[0.9, 0.1], [0.5, 0.5]])
    with pytest.raises(ValueError, match="chances"):
        estimate(p, trusted(p), kept)
    with pytest.raises(ValueError, match="beliefs"):
        estimate(p[:0], trusted(p))
