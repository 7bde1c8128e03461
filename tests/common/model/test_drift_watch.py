"""common/model/drift.py: what slides is what a recount gives, and alarms come and go."""

import random
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.model.artifact import DriftReference, SignalReference
from common.model.drift import PARTS, Change, Counts, DriftWatch, WatchLimits, compare
from common.model.signals import SIGNALS

BINS = 20
EDGES = tuple(i / BINS for i in range(1, BINS))
UNIFORM = SignalReference("", 0.5, 0.29, EDGES, (1 / BINS,) * BINS)
REFERENCE = DriftReference(
    10_000, (0.1,) * 10, tuple(replace(UNIFORM, name=name) for name in SIGNALS)
)
LIMITS = WatchLimits()

Stream = tuple[list[int], dict[str, list[float]]]


def stream(images: int, seed: int = 0, **shifts: float) -> Stream:
    """Uniform like the reference, but for signals whose values are moved."""
    source = random.Random(seed)
    signals = {
        name: [source.random() + shifts.get(name, 0.0) for _ in range(images)] for name in SIGNALS
    }
    return [source.randrange(10) for _ in range(images)], signals


def part_of(whole: Stream, start: int, stop: int) -> Stream:
    """Some images in a row."""
    return whole[0][start:stop], {name: v[start:stop] for name, v in whole[1].items()}


def feed(watch: DriftWatch, *streams: Stream) -> list[Change]:
    """Changes of the alarm over one stream after the other."""
    return [change for one in streams for change in watch.add(*one)]


def counted(whole: Stream) -> Counts:
    """From scratch."""
    counts = Counts.empty(REFERENCE)
    counts.add(REFERENCE, *whole)
    return counts


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 6).map(lambda parts: parts * PARTS),
    st.lists(st.integers(0, 60), max_size=8),
    st.integers(0, 99),
)
def test_sliding_is_what_a_recount_of_the_last_images_gives(
    window: int, batches: Sequence[int], seed: int
) -> None:
    everything = stream(sum(batches), seed)
    watch, start = DriftWatch(REFERENCE, window, LIMITS), 0
    for size in batches:
        watch.add(*part_of(everything, start, start + size))
        start += size
        judged = start - start % (window // PARTS)
        last = part_of(everything, max(0, judged - window), judged)
        assert watch.counts == counted(last)
        if judged:
            assert watch.report == compare(REFERENCE, counted(last), LIMITS.of_judgement(window))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 50), max_size=12), st.floats(0, 0.4))
def test_how_a_stream_is_cut_into_calls_makes_no_difference(
    batches: Sequence[int], shift: float
) -> None:
    everything = stream(sum(batches), 1, sharpness=shift)
    at_once, cut = DriftWatch(REFERENCE, 100, LIMITS), DriftWatch(REFERENCE, 100, LIMITS)
    changes = at_once.add(*everything)
    found, start = [], 0
    for size in batches:
        found += cut.add(*part_of(everything, start, start + size))
        start += size
    assert found == changes
    assert (cut.counts, cut.report, cut.raised) == (at_once.counts, at_once.report, at_once.raised)


@settings(max_examples=25, deadline=None)
@given(st.permutations(range(100)))
def test_the_order_within_a_part_makes_no_difference(order: Sequence[int]) -> None:
    classes, signals = stream(100)
    watch, shuffled = (DriftWatch(REFERENCE, 1000, LIMITS) for _ in range(2))
    watch.add(classes, signals)
    shuffled.add(
        [classes[i] for i in order], {name: [v[i] for i in order] for name, v in signals.items()}
    )
    assert shuffled.counts == watch.counts
    assert shuffled.report == watch.report


def test_memory_is_that_of_a_window_however_long_the_stream() -> None:
    watch = DriftWatch(REFERENCE, 100, LIMITS)
    for seed in range(30):
        watch.add(*stream(55, seed))
    assert watch.counts.images == 100
    assert len(watch._parts) == PARTS
    assert watch._part.images < 100 // PARTS


def test_an_alarm_is_raised_once_and_cleared_once() -> None:
    watch = DriftWatch(REFERENCE, 300, LIMITS)
    assert feed(watch, stream(600)) == []
    raised = feed(watch, stream(600, 1, sharpness=0.4))
    assert [change.alarm for change in raised] == ["raised"]
    assert raised[0].report.drifted == ("sharpness",)
    assert raised[0].window == 300
    assert watch.raised
    cleared = feed(watch, stream(900, 2))
    assert [change.alarm for change in cleared] == ["cleared"]
    assert not watch.raised


def test_an_alarm_is_not_cleared_before_a_whole_window_was_quiet() -> None:
    watch = DriftWatch(REFERENCE, 300, LIMITS)
    feed(watch, stream(300), stream(300, 1, sharpness=0.4))
    assert feed(watch, stream(300, 2)) == []  # the last spoiled image has just left
    assert watch.raised
    assert [change.alarm for change in feed(watch, stream(300, 3))] == ["cleared"]


def test_a_drift_between_the_limits_neither_raises_nor_clears() -> None:
    between = [stream(3000, seed) for seed in range(2)]
    for _, signals in between:  # one in seven moves from the lower half to the upper: KS 0.07
        for index, value in enumerate(signals["red_mean"]):
            if index % 7 == 0 and value < 0.5:
                signals["red_mean"][index] = value + 0.5
    watch = DriftWatch(REFERENCE, 3000, LIMITS)
    assert feed(watch, *between) == []
    feed(watch, stream(3000, 7, red_mean=0.4))
    assert watch.raised
    assert feed(watch, *between) == []
    assert watch.raised


def test_too_few_images_are_not_judged() -> None:
    watch = DriftWatch(REFERENCE, 300, LIMITS)
    assert feed(watch, stream(59, sharpness=0.9)) == []
    assert watch.report is not None
    assert watch.report.verdict == "too little evidence"
    assert [change.alarm for change in feed(watch, stream(1, sharpness=0.9))] == ["raised"]


def test_the_promise_of_a_stream_is_shared_by_all_judgements() -> None:
    limits = WatchLimits(windows=(300, 3000), false_alarms=1e-6)
    rates = {size: limits.of_judgement(size).false_alarm_rate for size in limits.windows}
    an_image = sum(rate / (size / PARTS) for size, rate in rates.items())
    assert an_image == pytest.approx(1e-6)


@pytest.mark.parametrize("window", [0, 5, 301])
def test_a_window_that_has_no_equal_parts_is_refused(window: int) -> None:
    with pytest.raises(ValueError, match=f"a window of {window} images, expected a multiple of 10"):
        WatchLimits(windows=(window,))
