"""Simulates the drift alarm on a stream of images.

A stream draws images at random, with replacement, from the half of the test images that made no
part of its reference, and is judged as the service judges its traffic (common/model/drift_watch).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from statistics import median

import numpy as np
from numpy.typing import NDArray

from common.model.artifact import DriftReference
from common.model.drift import PARTS, Counts, DriftWatch, WatchLimits
from ml.drift.observed import Observed
from ml.drift.rates import binned, reference_from, wilson

_PATIENCE = 3  # windows of spoiled images in which the alarm must be raised
_RELIEF = 6  # windows of clean images in which it must be cleared

_Draw = Callable[[str, int], Counts]  # so many images of a condition


@dataclass(frozen=True)
class Silence:
    """Clean streams under one window."""

    window: int
    windows: int  # without a common draw
    judgements: int  # ten a window, which overlap
    alarms: int
    nearest: float  # largest value of any statistic as a share of its threshold

    @property
    def interval(self) -> tuple[float, float]:
        """95 % Wilson interval of the alarms per window."""
        return wilson(self.alarms, self.windows)


@dataclass(frozen=True)
class Detection:
    """Streams that turn from clean to one corruption, and back, under one window."""

    condition: str
    window: int
    streams: int
    early: int  # streams that were in alarm before they were spoiled: false alarms
    delays: tuple[int, ...]  # images from the first spoiled one to the alarm, where it was raised
    reliefs: tuple[int, ...]  # images from the last spoiled one until it was cleared

    @property
    def rate(self) -> float:
        """Share of streams, but for the early ones, whose alarm was raised within three windows."""
        return len(self.delays) / max(1, self.streams - self.early)

    @property
    def delay(self) -> float | None:
        """Median delay in images."""
        return median(self.delays) if self.delays else None

    @property
    def relief(self) -> float | None:
        """Median time to all-clear in images."""
        return median(self.reliefs) if self.reliefs else None


def measure_online(
    clean: Observed,
    spoiled: Mapping[str, Observed],
    *,
    classes: int,
    limits: WatchLimits,
    clean_windows: int,
    streams: int,
    splits: int = 20,
    seed: int = 0,
    progress: Callable[[float], None] = lambda _: None,
) -> tuple[list[Silence], list[Detection]]:
    """Behaviour under each of the limits' windows; `progress` hears the share that is done.

    Args:
        clean: answers to N images; `spoiled` holds answers to the same images, in their order.
        clean_windows: windows of clean images without a common draw, at least so many.
        streams: for each corruption.
        splits: of the test images in halves, which the windows and streams share evenly.
    """
    random = np.random.default_rng(seed)
    silences: dict[int, list[Silence]] = {window: [] for window in limits.windows}
    detections: dict[tuple[str, int], list[Detection]] = {}
    for split in range(splits):
        progress(split / splits)
        order = random.permutation(len(clean.predictions))
        reference = reference_from(clean, order[: len(order) // 2], classes)
        half = order[len(order) // 2 :]
        draw = _drawer(reference, {"clean": clean, **spoiled}, half, random)
        for window in limits.windows:
            new = DriftWatch(reference, window, limits)
            silences[window].append(_silence(new, draw, ceil(clean_windows / splits)))
            for name in spoiled:
                for _ in range(ceil(streams / splits)):
                    new = DriftWatch(reference, window, limits)
                    found = _detection(new, draw, name, int(random.integers(window // PARTS)))
                    detections.setdefault((name, window), []).append(found)
    progress(1.0)
    merged = [_all_detections(found) for found in detections.values()]
    return [_all_silences(found) for found in silences.values()], merged


def _drawer(
    reference: DriftReference,
    seen: Mapping[str, Observed],
    half: NDArray[np.int64],
    random: np.random.Generator,
) -> _Draw:
    bins = {name: binned(reference, answers, half) for name, answers in seen.items()}
    predictions = {name: answers.predictions[half] for name, answers in seen.items()}

    def draw(name: str, images: int) -> Counts:
        chosen, counts = random.integers(len(half), size=images), Counts.empty(reference)
        counts.classes = _counted(predictions[name][chosen], len(counts.classes))
        for signal in reference.signals:
            where = bins[name][signal.name][chosen]
            counts.signals[signal.name] = _counted(where, len(signal.shares))
        return counts

    return draw


def _silence(watch: DriftWatch, draw: _Draw, windows: int) -> Silence:
    alarms, nearest = 0, 0.0
    for _ in range(windows * PARTS):
        change = watch.slide(draw("clean", watch.window // PARTS))
        alarms += change is not None and change.alarm == "raised"
        statistics = watch.report.statistics if watch.report else ()
        nearest = max([nearest, *(s.value / s.threshold for s in statistics)])
    return Silence(watch.window, windows, windows * PARTS, alarms, nearest)


def _detection(watch: DriftWatch, draw: _Draw, name: str, clean_first: int) -> Detection:
    """The first spoiled image comes after `clean_first` of a part, as it would in a stream."""
    size = watch.window // PARTS
    for _ in range(PARTS):
        watch.slide(draw("clean", size))
    if watch.raised:
        return Detection(name, watch.window, 1, 1, (), ())
    first = draw("clean", clean_first)
    first.merge(draw(name, size - clean_first))
    parts = iter([first])
    spoiled = _until(
        watch, lambda: next(parts, None) or draw(name, size), _PATIENCE * PARTS, "raised"
    )
    cleared = (
        _until(watch, lambda: draw("clean", size), _RELIEF * PARTS, "cleared") if spoiled else None
    )
    delays = () if spoiled is None else (spoiled * size - clean_first,)
    reliefs = () if cleared is None else (cleared * size,)
    return Detection(name, watch.window, 1, 0, delays, reliefs)


def _until(watch: DriftWatch, part: Callable[[], Counts], most: int, alarm: str) -> int | None:
    """How many parts it takes, if it does not take more than the most."""
    for count in range(1, most + 1):
        change = watch.slide(part())
        if change is not None and change.alarm == alarm:
            return count
    return None


def _counted(values: NDArray[np.int64], length: int) -> list[int]:
    counts: list[int] = np.bincount(values, minlength=length).tolist()
    return counts


def _all_silences(found: Sequence[Silence]) -> Silence:
    return Silence(
        found[0].window,
        sum(one.windows for one in found),
        sum(one.judgements for one in found),
        sum(one.alarms for one in found),
        max(one.nearest for one in found),
    )


def _all_detections(found: Sequence[Detection]) -> Detection:
    return Detection(
        found[0].condition,
        found[0].window,
        sum(one.streams for one in found),
        sum(one.early for one in found),
        tuple(delay for one in found for delay in one.delays),
        tuple(relief for one in found for relief in one.reliefs),
    )
