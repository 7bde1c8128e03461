"""Monitors a process's traffic for drift, off the request path.

The event loop only copies pixels. A thread measures images in blocks of some dozens, since
measuring one alone takes 1.6 times as long per image, and tests the windows.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from common.model.artifact import ArtifactMetadata
from common.model.drift import CLASSES, Change, Counts, DriftReport, DriftWatch, WatchLimits
from common.model.signals import CONFIDENCE, image_signals
from serve.exchange import Exchange
from serve.settings import Settings
from serve.telemetry import instruments as inst
from serve.telemetry.telemetry import Telemetry

if TYPE_CHECKING:
    from opentelemetry.metrics import CallbackOptions, Meter, Observation

logger = logging.getLogger(__name__)

# For images of up to _PIXELS; fewer larger ones, so that time and memory are constant.
_PIXELS = 32 * 32
_RATE = 50.0  # images measured per second: under 1 % of a CPU, at 0.14 ms each
_BLOCK = 32  # block size; 16 and 128 cost the same per image
_BURST = 100  # images measured at once after a pause: a whole batch

PAUSE_S = 15.0  # between exports of a process's drift
_MOST_BLOCKS = 4  # blocks waiting for the thread; each has at most _BLOCK + _BURST images
_FLUSH_S = 1.0

_Block = list[tuple[NDArray[np.uint8], NDArray[np.float32]]]


@dataclass(frozen=True)
class WindowState:
    window: int  # capacity in images
    images: int  # images tested last
    raised: bool
    report: DriftReport | None  # None before the first test


@dataclass(frozen=True)
class DriftState:
    """A process's drift statistics.

    Of `seen` predictions, `measured` are in `totals`, which only grow.
    """

    seen: int
    measured: int
    windows: tuple[WindowState, ...]
    totals: Counts

    @property
    def raised(self) -> bool:
        """Whether any window has raised an alarm."""
        return any(window.raised for window in self.windows)


class DriftMonitor:
    """An `Observer` that counts images of requests in the bins of the model's reference.

    Args:
        rate: at most this many images are measured per second, a sample of heavier traffic; None:
            what takes under 1 % of a CPU, 50 for 32x32 pixels.
    """

    def __init__(
        self,
        metadata: ArtifactMetadata,
        limits: WatchLimits | None = None,
        rate: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.metadata = metadata
        self._reference = metadata.drift_reference
        limits = limits or WatchLimits()
        self._watches = [DriftWatch(self._reference, size, limits) for size in limits.windows]
        self._totals = Counts.empty(self._reference)
        share = min(1.0, _PIXELS / (metadata.input_size[0] * metadata.input_size[1]))
        self._rate = _RATE * share if rate is None else rate
        self._block, self._burst = max(1, int(_BLOCK * share)), max(1, int(_BURST * share))
        self._allowed, self._allowed_at, self._clock = float(self._burst), clock(), clock
        self._seen = self._waiting = 0  # images; blocks
        self._staged: _Block = []
        self._staged_images = 0
        self._failed = False
        self._intake, self._counting = threading.Lock(), threading.Lock()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="drift")

    def __call__(self, exchange: Exchange, method: str, path: str) -> None:
        """Samples a request's images; never raises."""
        if exchange.images is None or exchange.probabilities is None:
            return
        try:
            self._take(exchange.images, exchange.probabilities)
        except Exception:
            self._report_failure()

    def state(self) -> DriftState:
        """The state after all requests so far; waits for the thread to catch up."""
        self.flush()
        with self._counting:
            totals = Counts.empty(self._reference)
            totals.merge(self._totals)
            windows = tuple(
                WindowState(watch.window, watch.counts.images, watch.raised, watch.report)
                for watch in self._watches
            )
        return DriftState(self._seen, totals.images, windows, totals)

    def flush(self, timeout_s: float = _FLUSH_S) -> None:
        """Waits until everything sampled is counted, or gives up after a timeout."""
        try:
            with self._intake:
                done = self._hand_over()
            done.result(timeout_s)
        except (TimeoutError, RuntimeError):  # the interpreter is shutting down: no new threads
            logger.debug("drift not counted to the end")

    def close(self) -> None:
        """Ends the thread once its work is done."""
        self._thread.shutdown()

    def _take(self, images: NDArray[np.uint8], probabilities: NDArray[np.float32]) -> None:
        with self._intake:
            self._seen += len(images)
            if not (count := self._admitted(len(images))):
                return
            chosen = np.arange(count) * len(images) // count  # evenly spaced over the batch
            # Copies: a view would keep the whole batch in memory.
            self._staged.append((images[chosen], probabilities[chosen]))
            self._staged_images += count
            if self._staged_images >= self._block:
                if self._waiting >= _MOST_BLOCKS:  # the thread cannot keep up
                    self._staged, self._staged_images = [], 0
                else:
                    self._hand_over()

    def _admitted(self, count: int) -> int:
        """How many of these images may be measured now: a token bucket."""
        now = self._clock()
        self._allowed = min(self._burst, self._allowed + (now - self._allowed_at) * self._rate)
        self._allowed_at = now
        admitted = min(count, int(self._allowed))
        self._allowed -= admitted
        return admitted

    def _hand_over(self) -> "Future[None]":
        block, self._staged, self._staged_images = self._staged, [], 0
        self._waiting += 1
        return self._thread.submit(self._count, block)

    def _count(self, block: _Block) -> None:
        try:
            if block:
                self._measure(block)
        except Exception:
            self._report_failure()
        finally:
            with self._intake:
                self._waiting -= 1

    def _measure(self, block: _Block) -> None:
        images = np.concatenate([images for images, _ in block])
        probabilities = np.concatenate([answers for _, answers in block])
        signals = {name: values.tolist() for name, values in image_signals(images).items()}
        signals[CONFIDENCE] = probabilities.max(axis=1).tolist()
        predictions = probabilities.argmax(axis=1).tolist()
        with self._counting:
            self._totals.add(self._reference, predictions, signals)
            changes = [c for watch in self._watches for c in watch.add(predictions, signals)]
        for change in changes:
            self._log(change)

    def _log(self, change: Change) -> None:
        facts = {
            "window": change.window,
            "images": change.report.images,
            "signals": list(change.report.drifted),
            "model_version": self.metadata.version,
        }
        if change.alarm == "raised":
            logger.warning("drift raised", extra=facts)
        else:
            logger.info("drift cleared", extra=facts)

    def _report_failure(self) -> None:
        """Logged once: a bug would otherwise fill the log at the rate of requests."""
        if not self._failed:
            self._failed = True
            logger.exception("drift monitor failed; requests are not affected")


_Reading = tuple[float, dict[str, str]]  # a value and its attributes


def watch_traffic(
    telemetry: Telemetry, settings: Settings, metadata: ArtifactMetadata
) -> DriftMonitor | None:
    """Starts monitoring; None if the settings turn it off.

    Alarms are logged; if metrics are exported, alarms and scores are too.
    """
    if settings.drift_rate == 0:
        return None
    monitor = DriftMonitor(metadata, rate=settings.drift_rate)
    telemetry.add_observer(monitor)
    telemetry.instrument(lambda meter: register_instruments(meter, monitor))
    return monitor


def register_instruments(
    meter: "Meter", monitor: DriftMonitor, clock: Callable[[], float] = time.monotonic
) -> None:
    """The drift metrics of the catalogue.

    Alarms and scores are per process: over a fleet, take the maximum. The bins are counters and
    add up, so the whole fleet's traffic can be compared with the shares of the reference. Exports
    within 15 s of the last with drift metrics omit them.
    """
    reference, classes = monitor.metadata.drift_reference, monitor.metadata.classes

    def bins(state: DriftState) -> Iterator[_Reading]:
        return _by_bin(state.totals.classes, state.totals.signals, classes)

    def shares(_: DriftState) -> Iterator[_Reading]:
        signals = {signal.name: signal.shares for signal in reference.signals}
        return _by_bin(reference.class_priors, signals, classes)

    for what, read in (
        (inst.DRIFT_ALARM, _alarms),
        (inst.DRIFT_WINDOW_IMAGES, _images),
        (inst.DRIFT_SCORE, lambda state: _statistics(state, "value")),
        (inst.DRIFT_THRESHOLD, lambda state: _statistics(state, "threshold")),
        (inst.DRIFT_IMAGES, bins),
        (inst.DRIFT_REFERENCE_SHARE, shares),
    ):
        create = (
            meter.create_observable_counter
            if what.kind == "counter"
            else meter.create_observable_gauge
        )
        create(what.name, [_paced(monitor, read, clock)], what.unit, what.description)


def _paced(
    monitor: DriftMonitor,
    read: Callable[[DriftState], Iterable[_Reading]],
    clock: Callable[[], float],
) -> "Callable[[CallbackOptions], Iterable[Observation]]":
    from opentelemetry.metrics import Observation  # imported only where metrics are exported

    # On Lambda every invocation exports, and 450 series each time would cost more than the
    # prediction.
    due = clock()

    def callback(_: "CallbackOptions") -> "Iterable[Observation]":
        nonlocal due
        if clock() < due:
            return []
        due = clock() + PAUSE_S
        return [Observation(value, attributes) for value, attributes in read(monitor.state())]

    return callback


def _alarms(state: DriftState) -> Iterator[_Reading]:
    for window in state.windows:
        yield int(window.raised), {"window": str(window.window)}


def _images(state: DriftState) -> Iterator[_Reading]:
    for window in state.windows:
        yield window.images, {"window": str(window.window)}


def _statistics(state: DriftState, field: str) -> Iterator[_Reading]:
    for window in state.windows:
        for s in window.report.statistics if window.report else ():
            labels = {"window": str(window.window), "signal": s.signal, "statistic": s.kind}
            yield getattr(s, field), labels


def _by_bin(
    classes: Sequence[float], signals: Mapping[str, Sequence[float]], names: Sequence[str]
) -> Iterator[_Reading]:
    """One value per bin, labelled by class name or bin number."""
    for name, value in zip(names, classes, strict=True):
        yield value, {"signal": CLASSES, "bin": name}
    for signal, values in signals.items():
        for index, value in enumerate(values):
            yield value, {"signal": signal, "bin": f"{index:02}"}
