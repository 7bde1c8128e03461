"""Whether a window of live answers looks like the reference, in the standard library alone.

Every signal is counted in the reference's bins and compared by the population stability index (PSI)
and by the Kolmogorov-Smirnov distance (KS). An alarm takes both: more than chance would do at the
stated false-alarm rate, and more than the size that is worth anybody's attention.
"""

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from math import log, sqrt
from typing import Literal

from serve.contract.chance import chi_square_quantile, chi_square_tail, ks_quantile, ks_tail
from serve.contract.values import DriftReference

CLASSES = "predicted_class"  # the signal beside those of the reference: which class was answered

Verdict = Literal["drift", "no drift", "too little evidence"]

_PER_BIN = 10  # images expected in a bin, or it is merged: below, PSI's chi-square limit is off


@dataclass(frozen=True)
class Limits:
    """When a difference is called drift.

    `psi` and `ks` are the smallest values worth an alarm: PSI below 0.1 is by custom "no change",
    and KS 0.1 means that one image in ten moved across some value.
    """

    false_alarm_rate: float = 1e-3  # of a window without drift, at most, over all statistics
    psi: float = 0.1
    ks: float = 0.1
    fewest_images: int = 50


DEFAULT_LIMITS = Limits()


@dataclass
class Counts:
    """A window of answers in the reference's bins; short windows merge to long ones."""

    classes: list[int]
    signals: dict[str, list[int]] = field(default_factory=dict)

    @classmethod
    def empty(cls, reference: DriftReference) -> "Counts":
        """Nothing seen yet."""
        signals = {signal.name: [0] * len(signal.shares) for signal in reference.signals}
        return cls([0] * len(reference.class_priors), signals)

    @property
    def images(self) -> int:
        """Answers in the window; a signal may have been measured on fewer of them."""
        return sum(self.classes)

    def add(
        self,
        reference: DriftReference,
        predictions: Iterable[int],
        signals: Mapping[str, Iterable[float]],
    ) -> None:
        """Count answers: class indices, and one value an image for each measured signal."""
        for prediction in predictions:
            self.classes[prediction] += 1
        for signal in reference.signals:
            bins = self.signals[signal.name]
            for value in signals.get(signal.name, ()):
                bins[bisect_right(signal.edges, value)] += 1

    def merge(self, other: "Counts") -> None:
        """Add what another window of the same reference saw."""
        self.classes = [a + b for a, b in zip(self.classes, other.classes, strict=True)]
        for name, counts in other.signals.items():
            mine = self.signals[name]
            self.signals[name] = [a + b for a, b in zip(mine, counts, strict=True)]

    def remove(self, other: "Counts") -> None:
        """Take away what was merged before."""
        self.classes = [a - b for a, b in zip(self.classes, other.classes, strict=True)]
        for name, counts in other.signals.items():
            mine = self.signals[name]
            self.signals[name] = [a - b for a, b in zip(mine, counts, strict=True)]


@dataclass(frozen=True)
class Statistic:
    """One signal compared in one way; drift if the value is above the threshold."""

    signal: str
    kind: Literal["psi", "ks"]
    images: int
    value: float
    threshold: float
    p_value: float  # chance of such a value without drift

    @property
    def drifted(self) -> bool:
        """Above the threshold."""
        return self.value > self.threshold


@dataclass(frozen=True)
class DriftReport:
    """A window compared with the reference."""

    images: int
    statistics: tuple[Statistic, ...]  # empty if there were too few images

    @property
    def verdict(self) -> Verdict:
        """Drift in any signal is drift."""
        if not self.statistics:
            return "too little evidence"
        return "drift" if any(s.drifted for s in self.statistics) else "no drift"

    @property
    def drifted(self) -> tuple[str, ...]:
        """Signals that drifted, each once, in the order of the reference."""
        return tuple(dict.fromkeys(s.signal for s in self.statistics if s.drifted))


def compare(
    reference: DriftReference, window: Counts, limits: Limits = DEFAULT_LIMITS
) -> DriftReport:
    """Compare a window with the reference; signals measured on too few images are left out."""
    pairs = [(CLASSES, tuple(window.classes), reference.class_priors)]
    pairs += [(s.name, tuple(window.signals[s.name]), s.shares) for s in reference.signals]
    enough = [pair for pair in pairs if sum(pair[1]) >= limits.fewest_images]
    tests = sum(1 if name == CLASSES else 2 for name, *_ in enough)
    statistics = []
    for name, counts, shares in enough:
        level = limits.false_alarm_rate / tests  # Bonferroni: the rates of all tests add up to ours
        statistics.append(_psi(name, counts, shares, reference.images, level, limits.psi))
        if name != CLASSES:
            statistics.append(_ks(name, counts, shares, reference.images, level, limits.ks))
    return DriftReport(window.images, tuple(statistics))


def psi(live: Sequence[float], reference: Sequence[float]) -> float:
    """Population stability index of two count vectors over the same bins, one added to each count.

    Without drift (1/n + 1/m) times a chi-square with one degree of freedom less than bins; the
    ones keep it there in the tail, where an empty bin would otherwise make it explode.
    """
    n, m = sum(live) + len(live), sum(reference) + len(reference)
    pairs = [((a + 1) / n, (b + 1) / m) for a, b in zip(live, reference, strict=True)]
    return sum((p - q) * log(p / q) for p, q in pairs)


def ks_distance(live: Sequence[float], shares: Sequence[float]) -> float:
    """Largest difference of the cumulative distributions at the bins' edges.

    That is at most the distance of the unbinned samples, so thresholds for those hold.
    """
    n, total = sum(live), sum(shares)
    pairs = zip(accumulate(live), accumulate(shares), strict=True)
    return max(abs(a / n - b / total) for a, b in pairs)


def _psi(
    name: str, counts: Sequence[int], shares: Sequence[float], size: int, level: float, floor: float
) -> Statistic:
    images = sum(counts)
    live, expected = _merged(counts, shares, _PER_BIN / images, ordered=name != CLASSES)
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
    scale = root + 0.12 + 0.11 / root  # Stephens 1970: the limit distribution, from few images on
    chance = ks_quantile(level) / scale
    return Statistic(name, "ks", images, value, max(floor, chance), ks_tail(value * scale))


def _merged(
    counts: Sequence[int], shares: Sequence[float], least: float, *, ordered: bool
) -> tuple[list[int], list[float]]:
    """Bins of at least a `least` share: neighbours join, or the rarest if bins have no order."""
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
