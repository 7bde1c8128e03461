"""ml/retrain: how many labels show a gain, what the gates mean, and which labels look wrong."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from ml.registry.ledger import Gate
from ml.registry.outcomes import compare_paired
from ml.retrain.evidence import compare_live, label_noise, labels_needed
from ml.retrain.retraining import decide

ALPHA = 0.05


def test_so_many_labels_show_the_gain_in_four_of_five_tests() -> None:
    random = np.random.default_rng(0)
    for gain, discordant in ((0.05, 0.15), (0.10, 0.2), (0.02, 0.06)):
        images = labels_needed(gain, discordant, ALPHA)
        assert images is not None
        better, worse = (discordant + gain) / 2, (discordant - gain) / 2
        found = 0
        for gained, lost, _ in random.multinomial(
            images, [better, worse, 1 - better - worse], size=400
        ):
            champion = np.arange(images) < lost
            candidate = (np.arange(images) >= lost) & (np.arange(images) < lost + gained)
            found += compare_paired(candidate, champion, ALPHA).is_superior(ALPHA)
        assert found / 400 == pytest.approx(0.8, abs=0.06)


@given(st.floats(0.001, 1), st.floats(0.001, 1))
def test_larger_gains_need_fewer_labels_and_always_some(gain: float, discordant: float) -> None:
    few, many = (labels_needed(g, discordant, ALPHA) for g in (gain, gain / 2))
    assert few is not None
    assert many is not None
    assert 5 <= few <= many
    assert labels_needed(-gain, discordant, ALPHA) is None


def test_a_gain_must_be_one_for_the_traffic_too() -> None:
    candidate, champion = np.ones(40, bool), np.arange(40) >= 20
    even = compare_live(candidate, champion, np.ones(40), ALPHA)
    assert (even.weighted, even.is_better(ALPHA)) == (0.5, True)
    assert even.gate(ALPHA).passed
    lost = candidate.copy()
    lost[-3:] = False  # and these stand for most of the traffic
    weights = np.where(np.arange(40) >= 37, 100.0, 1.0)
    rare = compare_live(lost, champion, weights, ALPHA)
    assert rare.paired.is_superior(ALPHA)
    assert not rare.is_better(ALPHA)
    assert rare.needed is None


@pytest.mark.parametrize(
    ("failed", "gained", "decision"),
    [
        ([], 20, "promoted"),
        (["on live labels"], 3, "more labels"),
        (["on live labels"], -3, "keep"),
        (["against the champion"], 20, "keep"),
        (["against the champion", "on live labels"], 3, "keep"),
    ],
)
def test_what_the_gates_mean(failed: list[str], gained: int, decision: str) -> None:
    champion = np.arange(60) >= max(gained, 0)
    candidate = np.arange(60) >= max(-gained, 0)
    compared = compare_live(candidate, champion, np.ones(60), ALPHA)
    names = ("size", "against the champion", "on live labels")
    gates = [Gate(name, name not in failed, "") for name in names]
    assert decide(gates, compared, 0.3)[0] == decision


def answered(rows: int, accuracy: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Answers of a shifted model: right so often, surer where it is right, and overconfident."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 10, rows)
    logits = random.normal(0, 1, (rows, 10))
    logits[np.arange(rows), labels] += random.gamma(2.0, 1.4, rows) * accuracy / 0.75
    return np.exp(logits * 2) / np.exp(logits * 2).sum(1, keepdims=True), labels


@pytest.mark.parametrize("seed", range(8))
def test_flipped_labels_are_noticed_and_right_ones_are_not(seed: int) -> None:
    probabilities, labels = answered(400, 0.75, seed)
    clean = label_noise(probabilities, labels)
    assert clean.share is not None
    assert clean.share < 0.1
    random = np.random.default_rng(100 + seed)
    flipped = random.random(400) < 0.2
    wrong = np.where(flipped, (labels + random.integers(1, 10, 400)) % 10, labels)
    noisy = label_noise(probabilities, wrong)
    assert noisy.share is not None
    assert noisy.share > 0.1
    assert flipped[list(noisy.suspects)].mean() > 0.7


def test_of_few_labels_nothing_is_said() -> None:
    probabilities, labels = answered(30, 0.75, 0)
    assert label_noise(probabilities, labels).share is None
    assert label_noise(probabilities.repeat(9, 0), np.zeros(270, np.int64)).share is None
    assert not math.isnan(label_noise(*answered(60, 0.75, 0)).share or 0.0)


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
