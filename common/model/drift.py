"""Drift statistics in the standard library: windows against the reference, thresholds, alarms.

A window is tested ten times while its images pass, so testing each at the rate of a single
comparison would raise too many false alarms. The limit is therefore stated per image of a stream,
whatever the windows; each test gets its share of it (Bonferroni).
"""

from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import accumulate
from math import erfc, exp, lgamma, log, sqrt
from typing import Literal

from common.model.artifact import DriftReference


def chi_square_tail(value: float, freedom: int) -> float:
    """Survival function of the chi-square distribution; 1 without a degree of freedom.

    Source: Abramowitz & Stegun 26.4.4 and 26.4.5, finite sums for whole degrees of freedom.
    """
    x = value / 2
    if freedom <= 0 or x <= 0:
        return 1.0
    a, total = (0.5, erfc(sqrt(x))) if freedom % 2 else (1.0, exp(-x))
    while a < freedom / 2:
        total += exp(a * log(x) - x - lgamma(a + 1))
        a += 1
    return min(1.0, float(f"{total:.10g}"))  # more digits would not be monotonic


def ks_tail(value: float) -> float:
    """Survival function of Kolmogorov's distribution, the limit of sqrt(n) times the distance.

    Source: Smirnov 1948; the alternating series converges in a few terms above 0.2: those left out
    here are below exp(-50).
    """
    if value < 0.2:
        return 1.0
    last = int(5 / value) + 1
    terms = (exp(-2 * (k * value) ** 2) * (1 if k % 2 else -1) for k in range(1, last + 1))
    return min(1.0, max(0.0, 2 * sum(terms)))


@cache
def chi_square_quantile(level: float, freedom: int) -> float:
    """The value that a chi-square distribution exceeds with probability `level`."""
    return _inverse(lambda value: chi_square_tail(value, freedom), level) if freedom > 0 else 0.0


@cache
def ks_quantile(level: float) -> float:
    """The value that Kolmogorov's distribution exceeds with probability `level`."""
    return _inverse(ks_tail, level)


def _inverse(tail: Callable[[float], float], level: float) -> float:
    """Where a decreasing tail function equals a level in 0..1, by bisection."""
    low, high = 0.0, 1.0
    while tail(high) > level:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if tail(middle) > level else (low, middle)
    return high


CLASSES = "predicted_class"  # signal of the predicted class, beside those of the reference
Verdict = Literal["drift", "no drift", "too little evidence"]
MERGED_BELOW = 10  # with fewer expected, bins are merged: PSI's chi-square limit fails


@dataclass(frozen=True)
class DriftLimits:
    """The thresholds for drift.

    `psi` and `ks` are the smallest values worth an alarm: PSI below 0.1 is by custom "no change",
    and KS 0.1 means that one image in ten moved across some value.
    """

    false_alarm_rate: float = 1e-3  # upper limit without drift, over all statistics of a window
    psi: float = 0.1
    ks: float = 0.1
    fewest_images: int = 50


DEFAULT_LIMITS = DriftLimits()


@dataclass
class Counts:
    """Binned predictions of a window; windows can be merged."""

    classes: list[int]
    signals: dict[str, list[int]] = field(default_factory=dict)

    @classmethod
    def empty(cls, reference: DriftReference) -> "Counts":
        """Counts of zero images."""
        signals = {signal.name: [0] * len(signal.shares) for signal in reference.signals}
        return cls([0] * len(reference.class_priors), signals)

    @property
    def images(self) -> int:
        """Predictions in the window; a signal may have been measured on fewer."""
        return sum(self.classes)

    def add(
        self,
        reference: DriftReference,
        predictions: Iterable[int],
        signals: Mapping[str, Iterable[float]],
    ) -> None:
        """Counts predictions: class indices, and one value per image for each measured signal."""
        for prediction in predictions:
            self.classes[prediction] += 1
        for signal in reference.signals:
            bins = self.signals[signal.name]
            for value in signals.get(signal.name, ()):
                bins[bisect_right(signal.edges, value)] += 1

    def merge(self, other: "Counts") -> None:
        """Adds another window over the same reference."""
        self.classes = [a + b for a, b in zip(self.classes, other.classes, strict=True)]
        for name, counts in other.signals.items():
            mine = self.signals[name]
            self.signals[name] = [a + b for a, b in zip(mine, counts, strict=True)]

    def remove(self, other: "Counts") -> None:
        """Subtracts a window merged earlier."""
        self.classes = [a - b for a, b in zip(self.classes, other.classes, strict=True)]
        for name, counts in other.signals.items():
            mine = self.signals[name]
            self.signals[name] = [a - b for a, b in zip(mine, counts, strict=True)]


@dataclass(frozen=True)
class Statistic:
    """A statistic of one signal; above its threshold it indicates drift."""

    signal: str
    kind: Literal["psi", "ks"]
    images: int
    value: float
    threshold: float
    p_value: float  # under the hypothesis of no drift

    @property
    def drifted(self) -> bool:
        """Whether the value exceeds the threshold."""
        return self.value > self.threshold


@dataclass(frozen=True)
class DriftReport:
    """The comparison of a window with the reference."""

    images: int
    statistics: tuple[Statistic, ...]  # empty if there were too few images

    @property
    def verdict(self) -> Verdict:
        """Drift if any signal drifted."""
        if not self.statistics:
            return "too little evidence"
        return "drift" if any(s.drifted for s in self.statistics) else "no drift"

    @property
    def drifted(self) -> tuple[str, ...]:
        """Signals that drifted, without duplicates, in the order of the reference."""
        return tuple(dict.fromkeys(s.signal for s in self.statistics if s.drifted))


def compare(
    reference: DriftReference, window: Counts, limits: DriftLimits = DEFAULT_LIMITS
) -> DriftReport:
    """Compares a window with the reference; signals measured on too few images are left out."""
    pairs = [(CLASSES, tuple(window.classes), reference.class_priors)]
    pairs += [(s.name, tuple(window.signals[s.name]), s.shares) for s in reference.signals]
    enough = [pair for pair in pairs if sum(pair[1]) >= limits.fewest_images]
    tests = sum(1 if name == CLASSES else 2 for name, *_ in enough)
    statistics = []
    for name, counts, shares in enough:
        level = limits.false_alarm_rate / tests  # Bonferroni correction over all tests
        statistics.append(_psi(name, counts, shares, reference.images, level, limits.psi))
        if name != CLASSES:
            statistics.append(_ks(name, counts, shares, reference.images, level, limits.ks))
    return DriftReport(window.images, tuple(statistics))


def psi(live: Sequence[float], reference: Sequence[float]) -> float:
    """Population stability index of two count vectors over the same bins, with add-one smoothing.

    Without drift (1/n + 1/m) times a chi-square with one degree of freedom less than bins; the
    ones keep it there in the tail, where an empty bin would otherwise make it explode.
    """
    n, m = sum(live) + len(live), sum(reference) + len(reference)
    pairs = [((a + 1) / n, (b + 1) / m) for a, b in zip(live, reference, strict=True)]
    return sum((p - q) * log(p / q) for p, q in pairs)


def ks_distance(live: Sequence[float], shares: Sequence[float]) -> float:
    """Largest difference of the cumulative distributions at the bin edges.

    That is at most the distance of the unbinned samples, so thresholds for those hold.
    """
    n, total = sum(live), sum(shares)
    pairs = zip(accumulate(live), accumulate(shares), strict=True)
    return max(abs(a / n - b / total) for a, b in pairs)


def _psi(
    name: str, counts: Sequence[int], shares: Sequence[float], size: int, level: float, floor: float
) -> Statistic:
    images = sum(counts)
    live, expected = _merged(counts, shares, MERGED_BELOW / images, ordered=name != CLASSES)
    value = psi(live, [share * size for share in expected])
    noise, freedom = 1 / images + 1 / size, len(live) - 1
    chance = noise * chi_square_quantile(level, freedom)
    p_value = chi_square_tail(value / noise, freedom)
    return Statistic(name, "psi", images, value, max(floor, chance), p_value)


def _ks(
    name: str, counts: Sequence[int], shares: Sequence[float], size: int, level: float, floor: float
) -> Statistic:
    images = sum(counts)
    value, pooled = ks_distance(counts, shares), images * size / (images + size)
    root = sqrt(pooled)
    # Stephens 1970: the limit distribution, even for small samples.
    scale = root + 0.12 + 0.11 / root
    chance = ks_quantile(level) / scale
    return Statistic(name, "ks", images, value, max(floor, chance), ks_tail(value * scale))


def _merged(
    counts: Sequence[int], shares: Sequence[float], least: float, *, ordered: bool
) -> tuple[list[int], list[float]]:
    """Merges bins to at least `least` share each: neighbours, or the rarest if unordered."""
    pairs = list(zip(counts, shares, strict=True))
    if not ordered:
        pairs.sort(key=lambda pair: pair[1])
    live, expected = [0], [0.0]
    for count, share in pairs:
        if expected[-1] >= least:
            live.append(0)
            expected.append(0.0)
        live[-1] += count
        expected[-1] += share
    if len(live) > 1 and expected[-1] < least:
        count, share = live.pop(), expected.pop()
        live[-1] += count
        expected[-1] += share
    return live, expected


PARTS = 10  # parts of a window: it slides by one of them and is tested then


@dataclass(frozen=True)
class Change:
    """A change of the alarm, and the test result that caused it."""

    alarm: Literal["raised", "cleared"]
    window: int
    report: DriftReport


@dataclass(frozen=True)
class WatchLimits:
    """When an alarm for drift is raised and cleared.

    An alarm is raised by one judgement beyond `false_alarms` and the floors. It is cleared when a
    whole window's length of judgements was quiet: all values within half the floors, or within what
    chance does in all but `noise` of windows. In between it stays as it is.
    """

    windows: tuple[int, ...] = (300, 3000)  # images, multiples of `PARTS`
    false_alarms: float = 1e-8  # rate per image without drift, over all windows and statistics
    psi: float = 0.1
    ks: float = 0.1
    noise: float = 1e-3
    fewest_images: int = 50

    def __post_init__(self) -> None:
        """Raises ValueError for windows that cannot be cut into equal parts."""
        if not self.windows:
            raise ValueError("no window, expected at least one length in images")
        for window in self.windows:
            if window < PARTS or window % PARTS:
                raise ValueError(f"a window of {window} images, expected a multiple of {PARTS}")

    def of_judgement(self, window: int) -> DriftLimits:
        """Thresholds of a single test of a window of that many images."""
        rate = self.false_alarms * (window // PARTS) / len(self.windows)
        return DriftLimits(rate, self.psi, self.ks, self.fewest_images)


class DriftWatch:
    """A sliding window over a stream compared with the reference, in constant memory.

    Attributes:
        window: images that the window holds once as many were seen.
        counts: the images of the last judgement: at most `window`, whole parts.
        report: the last judgement; None before the first part is full.
        raised: there is an alarm.
    """

    def __init__(self, reference: DriftReference, window: int, limits: WatchLimits) -> None:
        """Starts empty; `window` is one of the limits' windows."""
        self.window = window
        self.counts = Counts.empty(reference)
        self.report: DriftReport | None = None
        self.raised = False
        self._reference, self._limits = reference, limits
        self._limits_of_judgement = limits.of_judgement(window)
        self._parts: deque[Counts] = deque()
        self._part = Counts.empty(reference)
        self._quiet = 0  # consecutive tests

    def add(
        self, predictions: Sequence[int], signals: Mapping[str, Sequence[float]]
    ) -> list[Change]:
        """Counts images, one value each; batching makes no difference."""
        changes: list[Change] = []
        start, size = 0, self.window // PARTS
        while start < len(predictions):
            stop = start + size - self._part.images
            piece = {name: values[start:stop] for name, values in signals.items()}
            self._part.add(self._reference, predictions[start:stop], piece)
            start = stop
            if self._part.images == size:
                part, self._part = self._part, Counts.empty(self._reference)
                if change := self.slide(part):
                    changes.append(change)
        return changes

    def slide(self, part: Counts) -> Change | None:
        """Slides the window by a tenth and tests it."""
        self._parts.append(part)
        self.counts.merge(part)
        if len(self._parts) > PARTS:
            self.counts.remove(self._parts.popleft())
        self.report = compare(self._reference, self.counts, self._limits_of_judgement)
        return self._judge(self.report)

    def _judge(self, report: DriftReport) -> Change | None:
        self._quiet = self._quiet + 1 if self._is_quiet(report) else 0
        if not self.raised and report.verdict == "drift":
            self.raised = True
            return Change("raised", self.window, report)
        if self.raised and self._quiet >= PARTS:
            self.raised = False
            return Change("cleared", self.window, report)
        return None

    def _is_quiet(self, report: DriftReport) -> bool:
        floors = {"psi": self._limits.psi / 2, "ks": self._limits.ks / 2}
        level = self._limits.noise / max(1, len(report.statistics))
        return not any(s.value > floors[s.kind] and s.p_value < level for s in report.statistics)
