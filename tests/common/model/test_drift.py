"""common/model/drift.py: windows with and without drift, windows that are too small, and the tails
behind both against tables and their own inverses."""

import random
from collections.abc import Sequence
from dataclasses import replace
from math import log

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from common.model.artifact import DriftReference, SignalReference
from common.model.drift import (
    CLASSES,
    Counts,
    DriftLimits,
    chi_square_quantile,
    chi_square_tail,
    compare,
    ks_distance,
    ks_quantile,
    ks_tail,
    psi,
)
from common.model.signals import SIGNALS

BINS = 20
EDGES = tuple(i / BINS for i in range(1, BINS))
UNIFORM = SignalReference("", 0.5, 0.29, EDGES, (1 / BINS,) * BINS)
REFERENCE = DriftReference(
    10_000, (0.1,) * 10, tuple(replace(UNIFORM, name=name) for name in SIGNALS)
)

counts = st.lists(st.integers(0, 1000), min_size=2, max_size=20).filter(any)


def window(seed: int, images: int, **shifts: float) -> Counts:
    """Uniform like the reference, but for signals whose values are moved."""
    source, seen = random.Random(seed), Counts.empty(REFERENCE)
    values = {
        name: [source.random() + shifts.get(name, 0.0) for _ in range(images)] for name in SIGNALS
    }
    seen.add(REFERENCE, (source.randrange(10) for _ in range(images)), values)
    return seen


@pytest.mark.parametrize("images", [50, 100, 1000])
def test_the_false_alarm_rate_is_below_the_stated_one(images: int) -> None:
    limits = DriftLimits(false_alarm_rate=0.1, psi=0, ks=0)
    alarms = sum(
        compare(REFERENCE, window(seed, images), limits).verdict == "drift" for seed in range(60)
    )
    assert alarms <= 12  # 6 expected at most, 13 or more once in 200


def test_a_shifted_signal_is_named_and_the_others_are_not() -> None:
    report = compare(REFERENCE, window(0, 300, sharpness=0.25))
    assert (report.verdict, report.drifted) == ("drift", ("sharpness",))
    assert {s.kind for s in report.statistics if s.drifted} == {"psi", "ks"}


def test_one_class_answered_too_often_is_drift_of_the_classes() -> None:
    seen = window(0, 300)
    seen.classes[3] += 200
    assert CLASSES in compare(REFERENCE, seen).drifted


def test_a_shift_too_small_to_matter_is_no_drift_however_certain() -> None:
    seen = window(0, 50_000, red_mean=0.05)
    statistics = [s for s in compare(REFERENCE, seen).statistics if s.signal == "red_mean"]
    certain = next(s for s in statistics if s.kind == "ks")
    assert certain.p_value < 1e-9
    assert not certain.drifted
    strict = compare(REFERENCE, seen, DriftLimits(psi=0, ks=0))
    assert strict.drifted == ("red_mean",)


def test_few_images_are_too_little_evidence() -> None:
    report = compare(REFERENCE, window(0, 49, sharpness=0.9))
    assert (report.verdict, report.statistics) == ("too little evidence", ())
    assert compare(REFERENCE, window(0, 50, sharpness=0.9)).verdict == "drift"


def test_a_signal_that_was_not_measured_is_left_out() -> None:
    seen = Counts.empty(REFERENCE)
    seen.add(REFERENCE, [i % 10 for i in range(100)], {"confidence": [i / 100 for i in range(100)]})
    report = compare(REFERENCE, seen)
    assert {s.signal for s in report.statistics} == {CLASSES, "confidence"}
    assert report.verdict == "no drift"


def test_windows_merge_to_the_window_of_both() -> None:
    one, both = window(1, 60), window(1, 60)
    both.merge(window(2, 40))
    assert both.images == 100
    one.merge(window(2, 40))
    assert one == both


def test_a_value_on_an_edge_belongs_to_the_bin_above() -> None:
    seen = Counts.empty(REFERENCE)
    seen.add(REFERENCE, [0, 0, 0], {"confidence": [0.0499, 0.05, 7.0]})
    assert seen.signals["confidence"][:2] == [1, 1]
    assert seen.signals["confidence"][-1] == 1


def test_psi_is_that_of_the_definition_with_one_added_to_each_count() -> None:
    by_hand = (0.75 - 0.25) * log(0.75 / 0.25) + (0.25 - 0.75) * log(0.25 / 0.75)
    assert psi([2, 0], [0, 2]) == pytest.approx(by_hand)


def test_ks_is_the_largest_gap_of_the_cumulative_shares() -> None:
    assert ks_distance([6, 0, 4], [0.2, 0.3, 0.5]) == pytest.approx(0.4)


@given(counts)
def test_equal_counts_have_no_distance(live: Sequence[int]) -> None:
    assert psi(live, live) == pytest.approx(0)
    assert ks_distance(live, live) == pytest.approx(0)


@given(st.data(), counts)
def test_distances_are_never_negative_and_psi_is_symmetric(
    data: st.DataObject, live: list[int]
) -> None:
    size = len(live)
    other = data.draw(st.lists(st.integers(1, 1000), min_size=size, max_size=size))
    assert psi(live, other) == pytest.approx(psi(other, live))
    assert psi(live, other) >= 0
    assert 0 <= ks_distance(live, other) <= 1


@given(st.integers(1, 12), st.integers(0, 300))
def test_any_window_is_judged_without_a_crash(classes: int, images: int) -> None:
    priors = (0.9, *[0.1 / max(1, classes - 1)] * (classes - 1))
    reference = replace(REFERENCE, class_priors=priors)
    seen = Counts.empty(reference)
    seen.add(reference, [classes - 1] * images, {name: [9.0] * images for name in SIGNALS})
    assert compare(reference, seen).verdict in ("drift", "too little evidence")


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
