"""False-alarm and detection rates of drift statistics on resampled windows.

The reference must not be of the images it is tested on. So the test images are split in halves,
many times: one half makes a reference, the other is cut into windows that share no image.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np
from numpy.typing import NDArray

from common.model.artifact import DriftReference
from common.model.drift import CLASSES, Counts, DriftReport, Limits, compare
from common.model.signals import CONFIDENCE
from ml.artifact.drift_reference import bins_of, reference_of
from ml.drift.observed import Observed

ANSWERS = frozenset({CLASSES, CONFIDENCE})  # what a log of predictions shows without any image


@dataclass(frozen=True)
class Rate:
    """Alarms of windows of one size under one condition."""

    condition: str
    size: int  # images in a window
    windows: int
    alarms: int
    alarms_of_answers: int  # windows in which class or confidence drifted
    alarms_by_chance: int  # windows beyond chance alone, however small the difference
    signals: dict[str, int]  # windows in which each signal drifted

    @property
    def rate(self) -> float:
        """Share of windows that raised an alarm."""
        return self.alarms / self.windows

    @property
    def interval(self) -> tuple[float, float]:
        """95 % Wilson interval of the rate, as if windows were independent."""
        return wilson(self.alarms, self.windows)


class Tally:
    """Alarms of one condition and window size, counted as they come."""

    def __init__(self) -> None:
        """Nothing yet."""
        self.windows = self.alarms = self.of_answers = self.by_chance = 0
        self.signals: dict[str, int] = {}

    def add(self, report: DriftReport, by_chance: bool) -> None:
        """Adds one window."""
        self.windows += 1
        self.alarms += bool(report.drifted)
        self.of_answers += not ANSWERS.isdisjoint(report.drifted)
        self.by_chance += by_chance
        for name in report.drifted:
            self.signals[name] = self.signals.get(name, 0) + 1

    def rate(self, condition: str, size: int) -> Rate:
        """The tally as a rate, with the signals that drifted most often first."""
        ranked = sorted(self.signals.items(), key=lambda item: -item[1])
        numbers = (self.windows, self.alarms, self.of_answers, self.by_chance)
        return Rate(condition, size, *numbers, dict(ranked))


def measure_rates(
    clean: Observed,
    spoiled: Mapping[str, Observed],
    *,
    classes: int,
    sizes: Sequence[int],
    clean_windows: int,
    spoiled_windows: int,
    limits: Limits,
    seed: int = 0,
    progress: Callable[[float], None] = lambda _: None,
) -> list[Rate]:
    """Rates of every condition and window size; `progress` hears the share that is done.

    Args:
        clean: answers to N images; `spoiled` holds answers to the same images, in their order.
        sizes: images in a window, at most N / 2.

    Raises:
        ValueError: a window would be larger than half of the images.
    """
    images = len(clean.predictions)
    if max(sizes) > images // 2:
        raise ValueError(
            f"windows of {max(sizes)} images need {2 * max(sizes)}, there are {images}"
        )
    random = np.random.default_rng(seed)
    tallies = {name: {size: Tally() for size in sizes} for name in ("clean", *spoiled)}
    while (done := _done(tallies, clean_windows, spoiled_windows)) < 1:
        progress(done)
        order = random.permutation(images)
        kept, tested = order[: images // 2], order[images // 2 :]
        reference = reference_from(clean, kept, classes)
        for name, seen in {"clean": clean, **spoiled}.items():
            wanted = spoiled_windows if name in spoiled else clean_windows
            if min(tally.windows for tally in tallies[name].values()) >= wanted:
                continue
            bins = binned(reference, seen, tested)
            for size, tally in tallies[name].items():
                for window in _windows(reference, bins, seen.predictions[tested], size, max(sizes)):
                    tally.add(*_judged(reference, window, limits))
    progress(1.0)
    return [tally.rate(name, size) for name in tallies for size, tally in tallies[name].items()]


def wilson(hits: int, trials: int) -> tuple[float, float]:
    """95 % interval of a proportion. Source: Wilson 1927."""
    z, share = 1.96, hits / trials
    centre, scale = share + z * z / (2 * trials), 1 + z * z / trials
    spread = z * sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)


def _done(tallies: Mapping[str, Mapping[int, Tally]], clean: int, spoiled: int) -> float:
    """Share of the wanted windows."""
    shares = []
    for name, by_size in tallies.items():
        wanted = clean if name == "clean" else spoiled
        shares.append(min(1.0, min(tally.windows for tally in by_size.values()) / wanted))
    return sum(shares) / len(shares)


def reference_from(clean: Observed, kept: NDArray[np.int64], classes: int) -> DriftReference:
    """What the artifact would hold if its reference images were those of the indices `kept`."""
    signals = {name: values[kept] for name, values in clean.signals.items()}
    return reference_of(signals, np.bincount(clean.predictions[kept], minlength=classes))


def binned(
    reference: DriftReference, seen: Observed, tested: NDArray[np.int64]
) -> dict[str, NDArray[np.int64]]:
    """The bin of each signal's value for the images of the indices `tested`."""
    return {s.name: bins_of(s, seen.signals[s.name][tested]) for s in reference.signals}


def _windows(
    reference: DriftReference,
    bins: Mapping[str, NDArray[np.int64]],
    predictions: NDArray[np.int64],
    size: int,
    largest: int,
) -> list[Counts]:
    """Disjoint windows, as many of each size as there are of the largest, for equal weight."""
    windows = []
    for index in range(len(predictions) // largest):
        part = slice(index * size, (index + 1) * size)
        window = Counts.empty(reference)
        window.classes = np.bincount(predictions[part], minlength=len(window.classes)).tolist()
        for signal in reference.signals:
            counts = np.bincount(bins[signal.name][part], minlength=len(signal.shares))
            window.signals[signal.name] = counts.tolist()
        windows.append(window)
    return windows


def _judged(reference: DriftReference, window: Counts, limits: Limits) -> tuple[DriftReport, bool]:
    report = compare(reference, window, limits)
    level = limits.false_alarm_rate / max(1, len(report.statistics))
    return report, any(s.p_value < level for s in report.statistics)
