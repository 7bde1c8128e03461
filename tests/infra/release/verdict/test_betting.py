"""infra/release/verdict: odds that are valid whenever one looks."""

from collections.abc import Callable
from fractions import Fraction
from itertools import product
from math import comb, exp, log

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.release.verdict import two_arms
from infra.release.verdict.betting import Side, bound, log_mean_exp, log_odds

SHARE, LOSS = (0.0, 1.0), (-1.0, 0.0, 1.0)


def test_nothing_seen_is_no_evidence() -> None:
    assert log_odds([0, 0], SHARE, 0.1, "above") == 0
    assert two_arms.log_odds([0], [0], [0], [0]) == pytest.approx([0])
    assert bound([0, 0], SHARE, 100, "below") < 1e-6
    assert bound([0, 0, 0], LOSS, 100, "above") > 1 - 1e-6


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


@pytest.mark.parametrize(("stable", "canary"), [(0.1, 0.1), (0.7, 0.7), (0.4, 0.1), (0.9, 0.2)])
@pytest.mark.parametrize("of", [(3, 3), (9, 2), (1, 6)])
def test_the_odds_of_two_arms_gain_nothing_where_the_canary_is_no_worse(
    stable: float, canary: float, of: tuple[int, int]
) -> None:
    n, m = of
    expected = sum(
        comb(n, y) * stable**y * (1 - stable) ** (n - y)
        * comb(m, x) * canary**x * (1 - canary) ** (m - x)
        * exp(float(two_arms.log_odds([y], [n], [x], [m])[-1]))
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
        return float(two_arms.log_odds(y, y + y_not, x, x + x_not)[-1])

    assert last(windows) == pytest.approx(last(shuffled), abs=1e-9)


@given(
    *[st.integers(0, 300)] * 4,
)
def test_one_more_canary_request_that_fails_is_more_evidence(
    y: int, y_not: int, x: int, x_not: int
) -> None:
    def odds(x: int, x_not: int) -> float:
        return float(two_arms.log_odds([y], [y + y_not], [x], [x + x_not])[-1])

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
