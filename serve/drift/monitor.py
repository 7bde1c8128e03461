"""Monitors a process's traffic for drift, off the request path.

The event loop only copies pixels. A thread measures some dozens of images at a time, since an image
alone costs 1.6 times as much, and judges the windows.
"""

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.model.artifact import ArtifactMetadata
from common.model.drift import Change, Counts, DriftReport, DriftWatch, WatchLimits
from common.model.signals import CONFIDENCE, image_signals
from serve.exchange import Exchange

logger = logging.getLogger(__name__)

# For images of up to _PIXELS; of larger ones fewer, so that time and memory stay the same.
_PIXELS = 32 * 32
_RATE = 50.0  # images measured in a second: under a hundredth of a processor, at 0.14 ms each
_BLOCK = 32  # measured together; 16 and 128 cost the same each
_BURST = 100  # that may be measured at once after a pause: a whole batch

PAUSE_S = 15.0  # between two exports of a process's drift
_MOST_BLOCKS = 4  # that wait for the thread; each has at most _BLOCK + _BURST images
_FLUSH_S = 1.0

_Block = list[tuple[NDArray[np.uint8], NDArray[np.float32]]]


@dataclass(frozen=True)
class WindowState:
    """The state of one window."""

    window: int  # images it holds when full
    images: int  # that were judged
    raised: bool
    report: DriftReport | None  # None before the first judgement


@dataclass(frozen=True)
class DriftState:
    """What a process knows of its traffic.

    `seen` images were answered, `measured` of them are in `totals`, which only grow.
    """

    seen: int
    measured: int
    windows: tuple[WindowState, ...]
    totals: Counts

    @property
    def raised(self) -> bool:
        """There is an alarm in any window."""
        return any(window.raised for window in self.windows)


class DriftMonitor:
    """An `Observer` that counts the images of requests in the bins of the model's reference.

    Args:
        rate: images measured in a second at most, of more traffic a part; None: what takes under
            a hundredth of a processor, 50 for 32x32 pixels.
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
        """Takes some of a request's images; never raises."""
        if exchange.images is None or exchange.probabilities is None:
            return
        try:
            self._take(exchange.images, exchange.probabilities)
        except Exception:
            self._report_failure()

    def state(self) -> DriftState:
        """Everything up to the last exchange, for which the thread finishes its work."""
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
        """Has all that was taken counted; gives up after a while."""
        try:
            with self._intake:
                done = self._hand_over()
            done.result(timeout_s)
        except (TimeoutError, RuntimeError):  # the interpreter is about to end: no more threads
            logger.debug("drift not counted to the end")

    def close(self) -> None:
        """Ends the thread once its work is done."""
        self._thread.shutdown()

    def _take(self, images: NDArray[np.uint8], probabilities: NDArray[np.float32]) -> None:
        with self._intake:
            self._seen += len(images)
            if not (count := self._admitted(len(images))):
                return
            chosen = np.arange(count) * len(images) // count  # evenly through the batch
            # Copies: a view would keep the whole batch in memory.
            self._staged.append((images[chosen], probabilities[chosen]))
            self._staged_images += count
            if self._staged_images >= self._block:
                if self._waiting >= _MOST_BLOCKS:  # the thread cannot keep up
                    self._staged, self._staged_images = [], 0
                else:
                    self._hand_over()

    def _admitted(self, count: int) -> int:
        """How many of so many images may be measured now: a token bucket."""
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
        """Once: a mistake of ours would fill the log at the rate of the requests."""
        if not self._failed:
            self._failed = True
            logger.exception("drift monitor failed; requests are not affected")
