"""Finished spans and log records on their way out: a queue that is bounded, and what it lost."""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from serve.telemetry.worker import Worker


class Outbox:
    """Hands items to `export` in another thread, some of them at once; the newest go when full."""

    def __init__(
        self,
        name: str,
        export: Callable[[Sequence[Any]], bool],
        delay_s: float,
        capacity: int,
        batch: int,
    ) -> None:
        self.name, self.dropped = name, 0
        self._export, self._capacity, self._batch = export, capacity, min(batch, capacity)
        self._items: deque[Any] = deque()
        self.worker = Worker(name, self._send, delay_s)

    def put(self, items: Sequence[Any]) -> None:
        """Never waits."""
        before = len(self._items)
        room = max(0, self._capacity - before)
        self._items.extend(items[:room])
        self.dropped += max(0, len(items) - room)
        if before < self._batch <= len(self._items):
            self.worker.ask()

    def _send(self) -> bool:
        succeeded = True
        for _ in range(-(-len(self._items) // self._batch)):  # not what comes meanwhile
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
