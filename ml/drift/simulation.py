"""Simulates drift detection on test images: single windows, and the service's alarm on streams.

The reference must not contain the images that are tested, so the test images are repeatedly split
in halves: one half becomes the reference, the other is cut into disjoint windows, or sampled with
replacement as a stream.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil
from statistics import median

import numpy as np
from numpy.typing import NDArray

from common.intervals import wilson
from common.model.artifact import DriftReference
from common.model.drift import (
    CLASSES,
    PARTS,
    Counts,
    DriftLimits,
    DriftReport,
    DriftWatch,
    WatchLimits,
    compare,
)
from common.model.signals import CONFIDENCE
from ml.artifact.artifact import bins_of, reference_of
from ml.drift.observed import Observed, count_bins

_OF_PREDICTIONS = frozenset({CLASSES, CONFIDENCE})  # the signals that a log without images has
_DETECTION_LIMIT = 3  # windows of corrupted images within which the alarm must be raised
_CLEARING_LIMIT = 6  # windows of clean images within which it must be cleared


@dataclass
class WindowRate:
    """Alarms of windows of one size under one condition, counted incrementally."""

    condition: str
    size: int  # images per window
    windows: int = 0
    alarms: int = 0
    alarms_of_predictions: int = 0  # windows in which class or confidence drifted
    alarms_by_chance: int = 0  # significant windows, however small the difference
    signals: dict[str, int] = field(default_factory=dict)  # windows in which each signal drifted

    @property
    def rate(self) -> float:
        """Share of windows that raised an alarm."""
        return self.alarms / self.windows

    @property
    def interval(self) -> tuple[float, float]:
        """95 % Wilson interval of the rate, as if windows were independent."""
        return wilson(self.alarms, self.windows)

    def add(self, report: DriftReport, limits: DriftLimits) -> None:
        """Adds a window to the counts."""
        level = limits.false_alarm_rate / max(1, len(report.statistics))
        self.windows += 1
        self.alarms += bool(report.drifted)
        self.alarms_of_predictions += not _OF_PREDICTIONS.isdisjoint(report.drifted)
        self.alarms_by_chance += any(s.p_value < level for s in report.statistics)
        for name in report.drifted:
            self.signals[name] = self.signals.get(name, 0) + 1


def measure_windows(
    clean: Observed,
    corrupted: Mapping[str, Observed],
    *,
    classes: int,
    sizes: Sequence[int],
    clean_windows: int,
    corrupted_windows: int,
    limits: DriftLimits,
    seed: int = 0,
    progress: Callable[[float], None] = lambda _: None,
) -> list[WindowRate]:
    """Rates for every condition and window size; `progress` is called with the share done.

    Args:
        clean: predictions for N images; `corrupted` holds those for the same images, in the same
            order.
        sizes: images per window, at most N / 2.

    Raises:
        ValueError: a window would be larger than half of the images.
    """
    images = len(clean.predictions)
    if max(sizes) > images // 2:
        raise ValueError(
            f"windows of {max(sizes)} images need {2 * max(sizes)}, there are {images}"
        )
    random = np.random.default_rng(seed)
    rates = [WindowRate(name, size) for name in ("clean", *corrupted) for size in sizes]

    def done(rate: WindowRate) -> float:
        wanted = clean_windows if rate.condition == "clean" else corrupted_windows
        return min(1.0, rate.windows / wanted) if wanted else 1.0

    while (share := sum(map(done, rates)) / len(rates)) < 1:
        progress(share)
        reference, half = _split(clean, classes, random)
        for name, seen in {"clean": clean, **corrupted}.items():
            wanting = [rate for rate in rates if rate.condition == name and done(rate) < 1]
            bins = _binned(reference, seen, half) if wanting else {}
            for rate in wanting:
                # As many windows of each size as of the largest, for equal weight.
                for index in range(len(half) // max(sizes)):
                    part = slice(index * rate.size, (index + 1) * rate.size)
                    window = _window(reference, bins, part)
                    rate.add(compare(reference, window, limits), limits)
    progress(1.0)
    return rates


@dataclass(frozen=True)
class FalseAlarms:
    """Alarms of clean streams for one window size."""

    window: int
    windows: int  # independent windows
    judgements: int  # ten per window, which overlap
    alarms: int
    nearest: float  # largest value of any statistic relative to its threshold

    @property
    def interval(self) -> tuple[float, float]:
        """95 % Wilson interval of the alarms per window."""
        return wilson(self.alarms, self.windows)

    def merged(self, other: "FalseAlarms") -> "FalseAlarms":
        """The counts of both streams together."""
        return FalseAlarms(
            self.window,
            self.windows + other.windows,
            self.judgements + other.judgements,
            self.alarms + other.alarms,
            max(self.nearest, other.nearest),
        )


@dataclass(frozen=True)
class Detection:
    """Streams that change from clean to one corruption and back, for one window size."""

    condition: str
    window: int
    streams: int = 0
    early: int = 0  # streams whose alarm was raised before the corruption: false alarms
    delays: tuple[int, ...] = ()  # images from the first corrupted one to the alarm, if raised
    reliefs: tuple[int, ...] = ()  # images from the last corrupted one until it was cleared

    @property
    def rate(self) -> float:
        """Share of streams, without the early ones, whose alarm was raised within three windows."""
        return len(self.delays) / max(1, self.streams - self.early)

    @property
    def delay(self) -> float | None:
        """Median delay in images."""
        return median(self.delays) if self.delays else None

    @property
    def relief(self) -> float | None:
        """Median number of images until it was cleared."""
        return median(self.reliefs) if self.reliefs else None

    def merged(self, other: "Detection") -> "Detection":
        """The counts of both streams together."""
        return Detection(
            self.condition,
            self.window,
            self.streams + other.streams,
            self.early + other.early,
            self.delays + other.delays,
            self.reliefs + other.reliefs,
        )


def measure_streams(
    clean: Observed,
    corrupted: Mapping[str, Observed],
    *,
    classes: int,
    limits: WatchLimits,
    clean_windows: int,
    streams: int,
    splits: int = 20,
    seed: int = 0,
    progress: Callable[[float], None] = lambda _: None,
) -> tuple[list[FalseAlarms], list[Detection]]:
    """Behaviour of the alarm for each window size, judged as in the service
    (`common.model.drift.DriftWatch`); `progress` is called with the share done.

    Args:
        clean: predictions for N images; `corrupted` holds those for the same images, in the same
            order.
        clean_windows: minimum number of independent windows of clean images.
        streams: streams per corruption.
        splits: splits of the test images, over which windows and streams are distributed evenly.
    """
    random = np.random.default_rng(seed)
    false_alarms: dict[int, FalseAlarms] = {}
    detections: dict[tuple[str, int], Detection] = {}
    for split in range(splits):
        progress(split / splits)
        reference, half = _split(clean, classes, random)
        stream = _Stream(reference, {"clean": clean, **corrupted}, half, random)
        for window in limits.windows:
            watch = DriftWatch(reference, window, limits)
            counted = _false_alarms(watch, stream, ceil(clean_windows / splits))
            before = false_alarms.get(window)
            false_alarms[window] = before.merged(counted) if before else counted
            for name in corrupted:
                for _ in range(ceil(streams / splits)):
                    watch = DriftWatch(reference, window, limits)
                    clean_first = int(random.integers(window // PARTS))
                    found = _detection(watch, stream, name, clean_first)
                    known = detections.get((name, window), Detection(name, window))
                    detections[name, window] = known.merged(found)
    progress(1.0)
    return [*false_alarms.values()], [*detections.values()]


class _Stream:
    """Images of one half, sampled with replacement, under any condition."""

    def __init__(
        self,
        reference: DriftReference,
        seen: Mapping[str, Observed],
        half: NDArray[np.int64],
        random: np.random.Generator,
    ) -> None:
        self._reference, self._images, self._random = reference, len(half), random
        self._bins = {name: _binned(reference, observed, half) for name, observed in seen.items()}

    def draw(self, condition: str, images: int) -> Counts:
        """The window after more images."""
        chosen = self._random.integers(self._images, size=images)
        return _window(self._reference, self._bins[condition], chosen)


def _false_alarms(watch: DriftWatch, stream: _Stream, windows: int) -> FalseAlarms:
    alarms, nearest = 0, 0.0
    for _ in range(windows * PARTS):
        change = watch.slide(stream.draw("clean", watch.window // PARTS))
        alarms += change is not None and change.alarm == "raised"
        statistics = watch.report.statistics if watch.report else ()
        nearest = max([nearest, *(s.value / s.threshold for s in statistics)])
    return FalseAlarms(watch.window, windows, windows * PARTS, alarms, nearest)


def _detection(watch: DriftWatch, stream: _Stream, name: str, clean_first: int) -> Detection:
    """The first corrupted image comes after `clean_first` of a part, as it would in a stream."""
    size = watch.window // PARTS
    for _ in range(PARTS):
        watch.slide(stream.draw("clean", size))
    if watch.raised:
        return Detection(name, watch.window, streams=1, early=1)
    first = stream.draw("clean", clean_first)
    first.merge(stream.draw(name, size - clean_first))
    parts = iter([first])
    raised = _parts_until(
        watch,
        "raised",
        lambda: next(parts, None) or stream.draw(name, size),
        _DETECTION_LIMIT * PARTS,
    )
    if raised is None:
        return Detection(name, watch.window, streams=1)
    cleared = _parts_until(
        watch, "cleared", lambda: stream.draw("clean", size), _CLEARING_LIMIT * PARTS
    )
    reliefs = () if cleared is None else (cleared * size,)
    return Detection(name, watch.window, 1, 0, (raised * size - clean_first,), reliefs)


def _parts_until(
    watch: DriftWatch, alarm: str, draw: Callable[[], Counts], most: int
) -> int | None:
    for count in range(1, most + 1):
        change = watch.slide(draw())
        if change is not None and change.alarm == alarm:
            return count
    return None


def _split(
    clean: Observed, classes: int, random: np.random.Generator
) -> tuple[DriftReference, NDArray[np.int64]]:
    """The reference of a random half of the images, as an artifact would hold it, and the indices
    of the other half.
    """
    order = random.permutation(len(clean.predictions))
    kept, other = order[: len(order) // 2], order[len(order) // 2 :]
    signals = {name: values[kept] for name, values in clean.signals.items()}
    return reference_of(signals, np.bincount(clean.predictions[kept], minlength=classes)), other


def _binned(
    reference: DriftReference, seen: Observed, images: NDArray[np.int64]
) -> dict[str, NDArray[np.int64]]:
    """The predicted classes of these images, and the bins of their signal values."""
    bins = {s.name: bins_of(s, seen.signals[s.name][images]) for s in reference.signals}
    return bins | {CLASSES: seen.predictions[images]}


def _window(
    reference: DriftReference,
    bins: Mapping[str, NDArray[np.int64]],
    chosen: slice | NDArray[np.int64],
) -> Counts:
    return count_bins(reference, {name: values[chosen] for name, values in bins.items()})
