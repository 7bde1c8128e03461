"""CloudWatch Logs: what functions write arrives in moto's store, some moments later as on AWS."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from typing import Any

from moto.logs.models import LogEvent, logs_backends

from infra.twin.cloud.sandbox import Line
from infra.twin.cloud.targets import ACCOUNT

_Place = tuple[str, str, str]  # region, group, stream


def _since(moment_s: float, events: Iterable[LogEvent]) -> list[LogEvent]:
    return [event for event in events if event.timestamp >= 1000 * moment_s]


class LogWriter:
    """Collects lines until they are flushed."""

    def __init__(self, store: threading.RLock) -> None:
        """`store` is held while moto's store changes."""
        self._store = store
        self._lock = threading.Lock()
        self._lines: dict[_Place, list[Line]] = {}
        self._known: set[tuple[str, str]] = set()

    def write(self, region: str, group: str, stream: str, lines: Sequence[Line]) -> None:
        with self._lock:
            self._lines.setdefault((region, group, stream), []).extend(lines)

    def flush(self) -> None:
        with self._lock:
            waiting, self._lines = self._lines, {}
        if not waiting:
            return
        with self._store:
            for (region, group, stream), lines in waiting.items():
                self._put(region, group, stream, lines)

    def forget(self, before_s: float) -> None:
        """Drops older lines, which moto keeps twice: in their stream, and with all others."""
        with self._store:
            for region, name in self._known:
                if group := logs_backends[ACCOUNT][region].groups.get(name):
                    for stream in group.streams.values():
                        stream.events = _since(before_s, stream.events)
            kind: Any = LogEvent
            kind.instances_tracked = _since(before_s, kind.instances_tracked)

    def _put(self, region: str, group: str, stream: str, lines: Sequence[Line]) -> None:
        backend = logs_backends[ACCOUNT][region]
        if group not in backend.groups and (region, group) in self._known:
            return  # deleted, and a function's role may make none
        self._known.add((region, group))
        backend.ensure_log_group(group)
        if stream not in backend.groups[group].streams:
            backend.create_log_stream(group, stream)
        events = sorted(lines, key=lambda line: line.time_ms)
        backend.put_log_events(
            group, stream, [{"timestamp": line.time_ms, "message": line.text} for line in events]
        )
