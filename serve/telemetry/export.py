"""The export queue of spans and log records, and the thread that drains it."""

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

logger = logging.getLogger(__name__)


class Worker:
    """Runs `work` on request and, if it has an interval, periodically.

    Callers may wait for a run, up to a deadline.

    The SDK's own flush takes as long as the collector does, whatever the deadline:
    https://github.com/open-telemetry/opentelemetry-python/issues/4568
    """

    def __init__(
        self,
        name: str,
        work: Callable[[], bool],
        interval_s: float,
        cancel: Callable[[], object] = lambda: None,
        *,
        on_its_own: bool = True,
    ) -> None:
        self._work, self._interval_s, self._cancel = work, interval_s, cancel
        self._timeout_s = interval_s if on_its_own else None
        self._changed = threading.Condition()
        self._asked = self._done = 0
        self._succeeded_at = float("-inf")  # seconds since 1970
        self._succeeded = True
        self._stopped = False
        self._process = os.getpid()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    @property
    def is_due(self) -> bool:
        """Whether its interval has passed since its last success, or it has had none.

        By the wall clock, since the monotonic one may stop while the process is frozen.
        """
        return abs(time.time() - self._succeeded_at) >= self._interval_s

    def ask(self) -> int:
        """Requests a run soon; returns a ticket to wait for."""
        with self._changed:
            self._asked += 1
            self._changed.notify_all()
            return self._asked

    def wait(self, ticket: int, end: float) -> bool:
        """Whether the requested run succeeds before `time.monotonic()` reaches `end`."""
        with self._changed:
            in_time = self._changed.wait_for(
                lambda: self._done >= ticket or self._stopped, max(0.0, end - time.monotonic())
            )
            return in_time and self._done >= ticket and self._succeeded

    def stop(self) -> None:
        """Ends the thread; `cancel` makes work in progress give up its retries."""
        self._stopped = True
        # After a fork the thread is gone, perhaps holding the lock.
        if self._process == os.getpid():
            with self._changed:
                self._changed.notify_all()
            self._cancel()

    def join(self, end: float) -> None:
        """Waits for the stopped thread until `time.monotonic()` reaches `end`."""
        if self._process == os.getpid():
            self._thread.join(max(0.0, end - time.monotonic()))

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(
                    lambda: self._asked > self._done or self._stopped, self._timeout_s
                )
                if self._stopped:
                    return
                ticket = self._asked
            succeeded = self._attempt()
            if succeeded:
                self._succeeded_at = time.time()
            with self._changed:
                self._done, self._succeeded = ticket, succeeded
                self._changed.notify_all()

    def _attempt(self) -> bool:
        try:
            return self._work()
        except Exception:
            logger.exception("telemetry could not be exported")
            return False


class ExportQueue:
    """Exports items in batches from its own thread; drops the newest when it is full."""

    def __init__(
        self,
        name: str,
        export: Callable[[Sequence[Any]], bool],
        delay_s: float,
        capacity: int,
        batch: int,
        cancel: Callable[[], object] = lambda: None,
    ) -> None:
        self.name, self.dropped = name, 0
        self._export, self._capacity, self._batch = export, capacity, min(batch, capacity)
        self._items: deque[Any] = deque()
        self.worker = Worker(f"export-{name}", self._send, delay_s, cancel)

    @property
    def is_empty(self) -> bool:
        """Whether nothing is waiting for export."""
        return not self._items

    def put(self, items: Sequence[Any]) -> None:
        """Enqueues an item without blocking."""
        before = len(self._items)
        room = max(0, self._capacity - before)
        self._items.extend(items[:room])
        self.dropped += max(0, len(items) - room)
        if before < self._batch <= len(self._items):
            self.worker.ask()

    def _send(self) -> bool:
        succeeded = True
        for _ in range(-(-len(self._items) // self._batch)):  # not what arrives meanwhile
            count = min(self._batch, len(self._items))
            items = [self._items.popleft() for _ in range(count)]
            try:
                delivered = self._export(items)
            except Exception:
                self.dropped += count
                raise
            if not delivered:
                self.dropped += count
                succeeded = False
        return succeeded
