"""Drift in a stream: a window slides over the last images, and an alarm is raised and cleared.

A window is judged ten times while its images pass, so one that is judged at the rate of a single
comparison would cry wolf. The promise is therefore made for a stream: so many false alarms an image
at most, whatever the windows; each judgement gets its part of that (Bonferroni again).
"""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from serve.contract.drift import Counts, DriftReport, Limits, compare
from serve.contract.values import DriftReference

PARTS = 10  # of a window: it slides by one of them, and is judged then


@dataclass(frozen=True)
class Change:
    """What became of an alarm, and the judgement that did it."""

    alarm: Literal["raised", "cleared"]
    window: int
    report: DriftReport


@dataclass(frozen=True)
class WatchLimits:
    """When a stream is said to drift, and when no longer.

    An alarm is raised by one judgement beyond `false_alarms` and the floors. It is cleared when a
    whole window's length of judgements was quiet: all values within half the floors, or within what
    chance does in all but `noise` of windows. In between it stays as it is.
    """

    windows: tuple[int, ...] = (300, 3000)  # images, multiples of `PARTS`
    false_alarms: float = 1e-8  # of an image without drift, at most; all windows and statistics
    psi: float = 0.1
    ks: float = 0.1
    noise: float = 1e-3
    fewest_images: int = 50

    def __post_init__(self) -> None:
        """Refuse windows that cannot be cut into equal parts, with a ValueError."""
        if not self.windows:
            raise ValueError("no window, expected at least one length in images")
        for window in self.windows:
            if window < PARTS or window % PARTS:
                raise ValueError(f"a window of {window} images, expected a multiple of {PARTS}")

    def of_judgement(self, window: int) -> Limits:
        """What a single judgement of a window of that many images is held to."""
        rate = self.false_alarms * (window // PARTS) / len(self.windows)
        return Limits(rate, self.psi, self.ks, self.fewest_images)


class DriftWatch:
    """The last images of a stream, compared with the reference; memory does not grow.

    Attributes:
        window: images that the window holds once as many were seen.
        counts: the images of the last judgement: at most `window`, whole parts.
        report: the last judgement; None before the first part is full.
        raised: there is an alarm.
    """

    def __init__(self, reference: DriftReference, window: int, limits: WatchLimits) -> None:
        """Nothing seen yet; `window` is one of the limits' own."""
        self.window = window
        self.counts = Counts.empty(reference)
        self.report: DriftReport | None = None
        self.raised = False
        self._reference, self._limits = reference, limits
        self._limits_of_judgement = limits.of_judgement(window)
        self._parts: deque[Counts] = deque()
        self._part = Counts.empty(reference)
        self._quiet = 0  # judgements in a row

    def add(
        self, predictions: Sequence[int], signals: Mapping[str, Sequence[float]]
    ) -> list[Change]:
        """Count images, one value each; how they are cut into calls makes no difference."""
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
        """Take the next tenth of a window in, let the oldest go, and judge."""
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
