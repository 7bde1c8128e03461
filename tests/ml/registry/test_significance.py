"""ml/registry/outcomes.py against published values, brute force and simulation."""

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml.registry.outcomes import (
    Comparison,
    compare_paired,
    compare_proportions,
    mcnemar_exact,
    two_proportion_p,
)


@pytest.mark.parametrize(
    ("gained", "lost", "p"),
    [
        (0, 0, 1.0),
        (5, 5, 1.0),
        (0, 5, 0.0625),
        # Fagerland, Lydersen and Laake 2013, table 1: 1 and 7 discordant pairs, exact p = 0.070
        (1, 7, 0.0703125),
        (10, 25, 0.016674),  # sum(comb(35, k) for k in range(11)) / 2**34
    ],
)
def test_mcnemars_exact_p_value(gained: int, lost: int, p: float) -> None:
    assert mcnemar_exact(gained, lost) == pytest.approx(p, abs=1e-5)
    assert mcnemar_exact(lost, gained) == mcnemar_exact(gained, lost)


@given(st.integers(0, 9), st.integers(0, 9))
def test_mcnemar_is_the_share_of_coin_series_as_uneven(gained: int, lost: int) -> None:
    n = gained + lost
    extreme = abs(gained - lost)
    series = [abs(2 * sum(coins) - n) >= extreme for coins in product((0, 1), repeat=min(n, 10))]
    if n <= 10:
        assert mcnemar_exact(gained, lost) == pytest.approx(sum(series) / len(series))


def test_mcnemar_takes_thousands_of_images() -> None:
    assert mcnemar_exact(5000, 5000) == pytest.approx(1.0)
    z = (5200 - 5000) / math.sqrt(10200)
    assert mcnemar_exact(5200, 5000) == pytest.approx(math.erfc(z / math.sqrt(2)), rel=0.05)


def test_two_proportions_against_a_textbook() -> None:
    # 120 of 200 against 90 of 200: pooled share 0.525, z = 3.0038
    assert two_proportion_p(120, 200, 90, 200) == pytest.approx(0.002667, abs=1e-5)
    assert two_proportion_p(10, 10, 10, 10) == 1.0


def answers(n: int, gained: int, lost: int) -> tuple[np.ndarray, np.ndarray]:
    candidate, champion = np.ones(n, bool), np.ones(n, bool)
    champion[:gained] = False
    candidate[gained : gained + lost] = False
    return candidate, champion


def test_the_same_images_prove_more_than_different_ones() -> None:
    paired = compare_paired(*answers(10_000, 150, 160), alpha=0.05)
    apart = compare_proportions(9_290, 10_000, 9_300, 10_000, alpha=0.05)
    assert paired.difference == pytest.approx(apart.difference) == pytest.approx(-0.001)
    assert apart.lower < paired.lower < paired.difference
    assert paired.is_not_inferior(0.005)
    assert not paired.is_not_inferior(0.003)
    assert not paired.is_superior(0.05)
    assert "150 gained, 160 lost" in paired.detail


def test_the_interval_of_a_paired_difference_is_agresti_and_mins() -> None:
    # With half an image in each cell: n = 102, 8.5 gained, 3.5 lost, z = 1.644854.
    found = compare_paired(*answers(100, 8, 3), alpha=0.05)
    error = math.sqrt(12 - 25 / 102) / 102
    assert found.lower == pytest.approx(5 / 102 - 1.644854 * error, abs=1e-6)
    assert (found.method, found.difference) == ("McNemar, exact", 0.05)
    assert found.p_value == mcnemar_exact(8, 3)
    assert found.detail == "of 100 images 8 gained, 3 lost"


def test_the_interval_of_two_proportions_is_agresti_and_caffos() -> None:
    # With one right and one wrong image more on each side: 91/102 and 161/202, z = 1.281552.
    found = compare_proportions(90, 100, 160, 200, alpha=0.1)
    a, b = 91 / 102, 161 / 202
    error = math.sqrt(a * (1 - a) / 102 + b * (1 - b) / 202)
    assert found.lower == pytest.approx(a - b - 1.281552 * error, abs=1e-6)
    assert found.difference == pytest.approx(0.1)
    assert found.p_value == two_proportion_p(90, 100, 160, 200)
    assert found.detail == "on 100 and 200 images, not image by image"


@pytest.mark.parametrize(
    ("lower", "margin", "passes"), [(-0.01, 0.01, True), (-0.0101, 0.01, False), (0.0, 0.0, True)]
)
def test_a_loss_of_just_the_margin_is_allowed(lower: float, margin: float, passes: bool) -> None:
    assert Comparison("", 0.0, lower, 1.0, "").is_not_inferior(margin) is passes


@pytest.mark.parametrize(
    ("difference", "p", "superior"),
    [(0.01, 0.049, True), (0.01, 0.05, False), (0.0, 0.01, False), (-0.01, 0.01, False)],
)
def test_better_is_better_by_more_than_chance(difference: float, p: float, superior: bool) -> None:
    assert Comparison("", difference, 0.0, p, "").is_superior(0.05) is superior


def test_no_answers_cannot_be_compared() -> None:
    with pytest.raises(ValueError, match="equally many"):
        compare_paired(np.ones(0, bool), np.ones(0, bool), 0.05)


def test_a_small_test_set_proves_little() -> None:
    assert not compare_paired(*answers(100, 3, 3), alpha=0.05).is_not_inferior(0.01)
    assert compare_paired(*answers(100_000, 3000, 3000), alpha=0.05).is_not_inferior(0.01)


def test_a_clear_gain_is_superior() -> None:
    assert compare_paired(*answers(10_000, 300, 200), alpha=0.05).is_superior(0.05)
    assert not compare_paired(*answers(10_000, 200, 300), alpha=0.05).is_superior(0.05)


def test_answers_to_different_images_cannot_be_paired() -> None:
    with pytest.raises(ValueError, match="equally many"):
        compare_paired(np.ones(3, bool), np.ones(4, bool), 0.05)


@pytest.mark.parametrize("paired", [True, False])
def test_a_model_that_is_worse_by_the_margin_passes_as_rarely_as_alpha_says(paired: bool) -> None:
    random, margin, n, trials = np.random.default_rng(0), 0.02, 2000, 2000
    passed = 0
    for _ in range(trials):
        champion = random.random(n) < 0.9
        if paired:  # loses 4 % of all images, gains 2 %
            lost, gained = random.random(n) < 0.04 / 0.9, random.random(n) < 0.02 / 0.1
            candidate = np.where(champion, ~lost, gained)
            comparison = compare_paired(candidate, champion, 0.05)
        else:
            other = int((random.random(n) < 0.88).sum())
            comparison = compare_proportions(other, n, int(champion.sum()), n, 0.05)
        passed += comparison.is_not_inferior(margin)
    assert 0.03 < passed / trials < 0.07
