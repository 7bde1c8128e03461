"""CloudWatch Logs and metrics: Lambda's own, and those that functions write to their logs.

Values of a series within a second become one datum of statistics, as agents send them: each request
yields some twenty values, and moto scans every datum for each query.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from moto.cloudwatch.models import MetricAggregatedDatum, cloudwatch_backends
from moto.logs.models import LogEvent, logs_backends

from infra.twin.cloud.fleet import Line
from infra.twin.cloud.targets import ACCOUNT, Target

_Place = tuple[str, str, str]  # region, group, stream


def _since(moment_s: float, events: Iterable[LogEvent]) -> list[LogEvent]:
    return [event for event in events if event.timestamp >= 1000 * moment_s]


class LogWriter:
    """Buffers log lines until they are flushed."""

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
        """Drops older lines, which moto stores twice: per stream and globally."""
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
            return  # deleted, and a function's role may not create one
        self._known.add((region, group))
        backend.ensure_log_group(group)
        if stream not in backend.groups[group].streams:
            backend.create_log_stream(group, stream)
        events = sorted(lines, key=lambda line: line.time_ms)
        backend.put_log_events(
            group, stream, [{"timestamp": line.time_ms, "message": line.text} for line in events]
        )


Dimensions = tuple[tuple[str, str], ...]


class Series(NamedTuple):
    """The identity of a metric series."""

    region: str
    namespace: str
    name: str
    unit: str
    dimensions: Dimensions


class SampledDatum(MetricAggregatedDatum):
    """Statistics of some values, with the values, since percentiles cannot be computed from
    statistics.
    """

    def __init__(self, series: Series, second: int, values: Sequence[float]) -> None:
        super().__init__(
            namespace=series.namespace,
            name=series.name,
            min_stat=min(values),
            max_stat=max(values),
            sample_count=len(values),
            sum_stat=sum(values),
            dimensions=[{"Name": name, "Value": value} for name, value in series.dimensions],
            timestamp=datetime.fromtimestamp(second, UTC).replace(tzinfo=None),
            unit=series.unit,
        )
        self.values = values


class MetricWriter:
    """Buffers metric values until they are flushed."""

    def __init__(self, store: threading.RLock) -> None:
        """`store` is held while moto's store changes."""
        self._store = store
        self._lock = threading.Lock()
        self._values: dict[tuple[Series, int], list[float]] = {}

    def invoked(self, target: Target, duration_ms: float, failed: bool, concurrent: int) -> None:
        """Counts one invocation."""
        values = [
            ("Invocations", "Count", 1.0),
            ("Errors", "Count", float(failed)),
            ("Duration", "Milliseconds", duration_ms),
            ("ConcurrentExecutions", "Count", float(concurrent)),
        ]
        self._add_for_function(target, values)

    def throttled(self, target: Target) -> None:
        self._add_for_function(target, [("Throttles", "Count", 1.0)])

    def read_embedded(self, region: str, lines: Iterable[Line]) -> None:
        """Extracts metrics from lines in the embedded metric format."""
        for line in lines:
            if line.text.startswith("{") and '"_aws"' in line.text:
                self.add(embedded_values(region, line.text))

    def add(self, values: Iterable[tuple[Series, float]], timestamp_s: float | None = None) -> None:
        second = int(time.time() if timestamp_s is None else timestamp_s)
        with self._lock:
            for series, value in values:
                self._values.setdefault((series, second), []).append(value)

    def flush(self) -> None:
        with self._lock:
            waiting, self._values = self._values, {}
        with self._store:
            for (series, second), values in waiting.items():
                backend = cloudwatch_backends[ACCOUNT][series.region]
                backend.metric_data.append(SampledDatum(series, second, values))

    def forget(self, before_s: float) -> None:
        """Drops old values."""
        limit = datetime.fromtimestamp(before_s, UTC).replace(tzinfo=None)
        with self._store:
            for backend in cloudwatch_backends[ACCOUNT].values():
                backend.metric_data = [
                    datum
                    for datum in backend.metric_data
                    if not (isinstance(datum, SampledDatum) and datum.timestamp < limit)
                ]

    def _add_for_function(self, target: Target, values: list[tuple[str, str, float]]) -> None:
        function = ("FunctionName", target.name)
        resource = ("Resource", target.resource)
        groups: list[Dimensions] = [(function,), (function, resource)]
        if target.qualifier and target.qualifier != target.version:
            groups.append((function, resource, ("ExecutedVersion", target.version)))
        self.add(
            (Series(target.region, "AWS/Lambda", name, unit, dimensions), value)
            for name, unit, value in values
            for dimensions in groups
        )


def embedded_values(region: str, text: str) -> Iterator[tuple[Series, float]]:
    """The values in a line; invalid ones are skipped, as in CloudWatch."""
    try:
        document: dict[str, Any] = json.loads(text)
        directives = document["_aws"]["CloudWatchMetrics"]
        for directive in directives:
            for names in directive["Dimensions"]:
                dimensions = tuple((name, str(document[name])) for name in names)
                for metric in directive["Metrics"]:
                    unit = metric.get("Unit", "None")
                    series = Series(
                        region, directive["Namespace"], metric["Name"], unit, dimensions
                    )
                    found = document[metric["Name"]]
                    for value in found if isinstance(found, list) else [found]:
                        yield series, float(value)
    except (ValueError, KeyError, TypeError):
        return
