"""common/betting: odds that are valid whenever one looks."""

from collections.abc import Callable, Sequence
from fractions import Fraction
from itertools import combinations, product
from math import comb, exp, log, prod

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from common.betting import (
    Side,
    bound,
    log_mean_exp,
    log_odds,
    two_arm_log_odds,
    weighted_bound,
    weighted_log_odds,
)

SHARE, LOSS = (0.0, 1.0), (-1.0, 0.0, 1.0)


def test_nothing_seen_is_no_evidence() -> None:
    assert log_odds([0, 0], SHARE, 0.1, "above") == 0
    assert two_arm_log_odds([0], [0], [0], [0]) == pytest.approx([0])
    assert bound([0, 0], SHARE, 100, "below") < 1e-6
    assert bound([0, 0, 0], LOSS, 100, "above") > 1 - 1e-6


def stakes(counts: Sequence[int], values: Sequence[float], mean: float, side: Side) -> list[float]:
    """What each of the bets has grown to: a part of all that can be bet without going broke."""
    sign, worst = (1, mean - values[0]) if side == "above" else (-1, values[-1] - mean)
    return [
        prod(
            (1 + part * sign * (v - mean) / worst) ** n for v, n in zip(values, counts, strict=True)
        )
        for part in (0.001, 0.005, 0.02, 0.06, 0.15, 0.35, 0.65, 0.95)
    ]


@given(
    st.lists(st.integers(0, 20), min_size=3, max_size=3),
    st.integers(-9, 9).map(lambda tenths: tenths / 10),
    st.sampled_from(["above", "below"]),
)
def test_odds_are_the_mean_of_eight_stakes(counts: list[int], mean: float, side: Side) -> None:
    expected = log(sum(stakes(counts, LOSS, mean, side)) / 8)
    assert float(log_odds(counts, LOSS, mean, side)) == pytest.approx(expected, abs=1e-9)


@given(st.lists(st.tuples(*[st.integers(0, 9)] * 4), min_size=1, max_size=3))
@example([(1, 0, 0, 0)])
@example([(0, 0, 0, 1), (0, 0, 0, 0)])
def test_odds_of_two_arms_are_the_mean_of_all_likelihood_ratios(
    windows: list[tuple[int, int, int, int]],
) -> None:
    shares = (1e-4, 5e-4, 0.002, 0.008, 0.025, 0.06, 0.12, 0.25, 0.4, 0.55, 0.7, 0.85, 0.97)
    pairs, ratios = [*combinations(shares, 2)], []
    for stable, candidate in pairs:
        ratio = 1.0
        for y, y_not, x, x_not in windows:
            n, m = y + y_not, x + x_not
            both = (n * stable + m * candidate) / (n + m) if n + m else 0.5
            ratio *= (stable / both) ** y * ((1 - stable) / (1 - both)) ** y_not
            ratio *= (candidate / both) ** x * ((1 - candidate) / (1 - both)) ** x_not
        ratios.append(ratio)
    y, y_not, x, x_not = np.array(windows).T
    odds = two_arm_log_odds(y, y + y_not, x, x + x_not)
    assert odds.shape == (len(windows),)
    assert odds[-1] == pytest.approx(log(sum(ratios) / len(pairs)), abs=1e-9)


@pytest.mark.parametrize("counts", [(90, 10), (0, 50), (50, 0)])
def test_a_bound_is_the_mean_that_is_refuted_with_just_these_odds(counts: tuple[int, int]) -> None:
    low, high = (float(bound(counts, SHARE, 20, side)) for side in ("below", "above"))
    if low > 1e-6:
        assert log_odds(counts, SHARE, low, "above") == pytest.approx(log(20), abs=1e-4)
    if high < 1 - 1e-6:
        assert log_odds(counts, SHARE, high, "below") == pytest.approx(log(20), abs=1e-4)
    assert low <= counts[1] / sum(counts) <= high


@pytest.mark.parametrize("mean", [0.001, 0.3, 0.9])
@pytest.mark.parametrize("side", ["above", "below"])
def test_a_fair_bet_is_fair(mean: float, side: Side) -> None:
    n = 12
    expected = sum(
        comb(n, k) * mean**k * (1 - mean) ** (n - k) * exp(log_odds([n - k, k], SHARE, mean, side))
        for k in range(n + 1)
    )
    assert expected == pytest.approx(1)


@pytest.mark.parametrize(("better", "worse"), [(0.2, 0.2), (0.1, 0.3), (0.02, 0.05)])
def test_a_paired_bet_on_no_loss_gains_nothing_where_there_is_none(
    better: float, worse: float
) -> None:
    """`better` is the share that stable alone gets right."""
    seen = np.array(list(product(range(3), repeat=7)))
    counts = np.stack([(seen == value).sum(1) for value in range(3)], 1)
    chances = np.prod(np.array([worse, 1 - better - worse, better]) ** counts, 1)
    assert chances.sum() == pytest.approx(1)
    assert (chances * np.exp(log_odds(counts, LOSS, 0.0, "above"))).sum() <= 1 + 1e-9


@pytest.mark.parametrize(("stable", "candidate"), [(0.1, 0.1), (0.7, 0.7), (0.4, 0.1), (0.9, 0.2)])
@pytest.mark.parametrize("of", [(3, 3), (9, 2), (1, 6)])
def test_the_odds_of_two_arms_gain_nothing_where_the_candidate_is_no_worse(
    stable: float, candidate: float, of: tuple[int, int]
) -> None:
    n, m = of
    expected = sum(
        comb(n, y) * stable**y * (1 - stable) ** (n - y)
        * comb(m, x) * candidate**x * (1 - candidate) ** (m - x)
        * exp(float(two_arm_log_odds([y], [n], [x], [m])[-1]))
        for y in range(n + 1)
        for x in range(m + 1)
    )  # fmt: skip
    assert expected <= 1 + 1e-9


@given(
    st.lists(st.tuples(*[st.integers(0, 50)] * 4), min_size=1, max_size=5),
    st.randoms(use_true_random=False),
)
def test_the_order_of_windows_makes_no_difference(
    windows: list[tuple[int, ...]], random: "object"
) -> None:
    shuffled = windows[:]
    random.shuffle(shuffled)  # type: ignore[attr-defined]

    def last(some: list[tuple[int, ...]]) -> float:
        y, y_not, x, x_not = np.array(some).T
        return float(two_arm_log_odds(y, y + y_not, x, x + x_not)[-1])

    assert last(windows) == pytest.approx(last(shuffled), abs=1e-9)


@given(
    *[st.integers(0, 300)] * 4,
)
def test_one_more_candidate_request_that_fails_is_more_evidence(
    y: int, y_not: int, x: int, x_not: int
) -> None:
    def odds(x: int, x_not: int) -> float:
        return float(two_arm_log_odds([y], [y + y_not], [x], [x + x_not])[-1])

    if x_not:
        assert odds(x + 1, x_not - 1) > odds(x, x_not) - 1e-9


@given(st.integers(0, 200), st.integers(0, 200), st.floats(0.01, 0.99), st.floats(0.01, 0.99))
def test_odds_fall_as_the_doubted_mean_comes_nearer(k: int, rest: int, a: float, b: float) -> None:
    low, high = sorted((a, b))
    odds: Callable[[float], float] = lambda mean: float(log_odds([rest, k], SHARE, mean, "above"))  # noqa: E731
    assert odds(low) >= odds(high) - 1e-9


@given(st.integers(0, 300), st.integers(0, 300))
def test_bounds_hold_what_was_seen_and_narrow_with_more(k: int, rest: int) -> None:
    low, high = (float(bound([rest, k], SHARE, 100, side)) for side in ("below", "above"))
    if k + rest:
        assert low <= Fraction(k, k + rest) + 1e-6
        assert high >= Fraction(k, k + rest) - 1e-6
    wide = [float(bound([10 * rest, 10 * k], SHARE, 100, side)) for side in ("below", "above")]
    assert wide[1] - wide[0] <= high - low + 1e-6


def test_the_bounds_of_a_fair_coin_are_ever_wrong_as_seldom_as_stated() -> None:
    random, tosses = np.random.default_rng(0), 300
    heads = np.cumsum(random.random((1000, tosses)) < 0.5, 1)
    counts = np.stack([np.arange(1, tosses + 1) - heads, heads], -1)
    wrong = (log_odds(counts, SHARE, 0.5, "above") >= log(20)).any(1).mean()
    assert 0.002 < wrong <= 0.05


def test_a_mean_of_exponentials_does_not_overflow() -> None:
    assert log_mean_exp(np.array([2000.0, 2000.0 + log(3)])) == pytest.approx(2000 + log(2))


@pytest.mark.parametrize("side", ["above", "below"])
def test_a_sample_of_equal_weights_is_bet_on_like_counts(side: Side) -> None:
    values = [1.0] * 30 + [0.0] * 10
    weighted = weighted_log_odds([4.0] * 40, values, 0.6, 4.0, side)
    assert weighted[-1] == pytest.approx(float(log_odds([10, 30], SHARE, 0.6, side)), abs=1e-9)
    end: Side = "below" if side == "above" else "above"
    plain = float(bound([10, 30], SHARE, 20, end))
    assert weighted_bound([4.0] * 40, values, 4.0, 20, end) == pytest.approx(plain, abs=1e-6)


def test_a_sample_that_prefers_failures_is_seldom_ever_wrong_about_the_mean() -> None:
    """Successes are drawn with a chance of a fifth, failures always; 300 streams of 400."""
    random = np.random.default_rng(0)
    wrong = 0
    for _ in range(300):
        everything = (random.random(1500) < 0.9).astype(float)
        chance = np.where(everything == 1, 0.2, 1.0)
        drawn = random.random(1500) < chance
        seen = (1 / chance[drawn], everything[drawn], 0.9, 5.0)
        sides: list[Side] = ["above", "below"]
        wrong += any(weighted_log_odds(*seen, side).max() >= log(40) for side in sides)
    assert wrong <= 15  # 5 % of the streams
    assert weighted_bound(*seen[:2], 5.0, 40, "below") < 0.9
    assert weighted_bound(*seen[:2], 5.0, 40, "above") > 0.9
