"""common/model/drift.py against tables and its own inverse."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from common.model.drift import chi_square_quantile, chi_square_tail, ks_quantile, ks_tail


@pytest.mark.parametrize(
    ("value", "freedom", "tail"),
    [  # Abramowitz & Stegun, table 26.8
        (3.84146, 1, 0.05),
        (5.99146, 2, 0.05),
        (16.9190, 9, 0.05),
        (33.7199, 9, 0.0001),
        (43.8202, 19, 0.001),
        (149.449, 100, 0.001),
    ],
)
def test_the_chi_square_tail_is_that_of_the_table(value: float, freedom: int, tail: float) -> None:
    assert chi_square_tail(value, freedom) == pytest.approx(tail, rel=1e-4)


@pytest.mark.parametrize(("value", "tail"), [(1.22385, 0.10), (1.35810, 0.05), (1.62762, 0.01)])
def test_kolmogorovs_tail_is_that_of_the_table(value: float, tail: float) -> None:
    assert ks_tail(value) == pytest.approx(tail, rel=1e-4)


@given(st.floats(1e-9, 0.9), st.integers(1, 1000))
def test_quantiles_undo_tails(level: float, freedom: int) -> None:
    assert chi_square_tail(chi_square_quantile(level, freedom), freedom) == pytest.approx(level)
    assert ks_tail(ks_quantile(level)) == pytest.approx(level)


@given(st.floats(0, 1e6), st.floats(0, 1e6), st.integers(0, 1000))
@example(1.0, 3.0, 41)
def test_tails_fall_and_stay_probabilities(one: float, other: float, freedom: int) -> None:
    low, high = sorted((one, other))
    assert 0 <= chi_square_tail(high, freedom) <= chi_square_tail(low, freedom) <= 1
    assert 0 <= ks_tail(high) <= ks_tail(low) <= 1


def test_without_a_degree_of_freedom_nothing_is_surprising() -> None:
    assert chi_square_tail(10.0, 0) == 1
    assert chi_square_quantile(0.001, 0) == 0
