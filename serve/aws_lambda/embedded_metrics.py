"""The catalogue's metrics as CloudWatch embedded metrics in log lines.

https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html
"""

import json
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from common import resources
from common.model.artifact import ArtifactMetadata
from serve.drift.monitor import PAUSE_S, DriftMonitor
from serve.errors import Overloaded
from serve.exchange import Exchange
from serve.telemetry import instruments as inst
from serve.telemetry.instruments import Instrument
from serve.telemetry.recorder import Request, SeriesNames

if TYPE_CHECKING:  # imported on demand
    from serve.capture.recorder import Recorder

NAMESPACE = "Kiln"
MAX_VALUES = 100  # values of one metric in one line
_UNITS = {"s": "Seconds", "By": "Bytes", "1": "None"}  # CloudWatch's unit of counters: "Count"
_SERVICE = "service.name"

Number = float | int


class Point(NamedTuple):
    instrument: Instrument
    values: Sequence[Number]
    labels: Mapping[str, str] = {}


class EmbeddedMetrics:
    """An `Observer` that accumulates metrics and writes them to the log when flushed.

    `version` is the function's version, by which a release compares metrics.
    """

    def __init__(
        self,
        metadata: ArtifactMetadata,
        service: str = "kiln",
        version: str = "",
        write: Callable[[str], object] = lambda line: sys.stdout.write(line),
        drift: DriftMonitor | None = None,
        recorder: "Recorder | None" = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._classes, self._service = metadata.classes, service
        self._series = SeriesNames()
        self._write = write
        self._drift, self._clock, self._drift_due = drift, clock, clock()
        self._recorder = recorder
        self._kept, self._dropped = 0, dict[str, int]()  # the log's own stream
        self._facts = {"kiln.model.name": metadata.name, "kiln.model.version": metadata.version}
        if version:
            self._facts["faas.version"] = version
        self._seen: list[tuple[Exchange, Request, float]] = []
        self._cpu_s = resources.cpu_s()
        self._start_s: float | None = resources.uptime_s()

    def __call__(self, exchange: Exchange, method: str, path: str) -> None:
        request = self._series(exchange, method)
        self._seen.append((exchange, request, time.perf_counter() - exchange.start))

    def flush(self) -> bool:
        """Writes everything recorded since the last flush."""
        seen, self._seen = self._seen, []
        for exchange, request, duration_s in seen:
            facts = self._facts | {"trace_id": exchange.request_id}
            points = [*self._request(exchange, request, duration_s)]
            if exchange is seen[0][0]:
                points += [*self._process(), *self._windows(), *self._captures()]
            for line in documents(points, {_SERVICE: self._service}, facts, time.time()):
                self._write(json.dumps(line, separators=(",", ":")) + "\n")
        return True

    def renew(self) -> None:
        """Starts from zero in a copy of the process, which must not report the original's
        counts.
        """
        self._seen, self._cpu_s, self._start_s = [], resources.cpu_s(), 0.0
        self._kept, self._dropped = 0, {}

    def _request(self, exchange: Exchange, request: Request, duration_s: float) -> Iterable[Point]:
        labels = {name: str(value) for name, value in request.labels().items()}
        yield Point(inst.REQUEST_DURATION, [round(duration_s, 6)], labels)
        yield Point(inst.SHED, [int(request.error == Overloaded.kind)])
        if request.error:
            yield Point(inst.ERRORS, [1], {inst.ERROR: request.error})
        if exchange.probabilities is None:
            return
        times = (exchange.decode_s, exchange.queue_s, exchange.infer_s, exchange.encode_s)
        for stage, seconds in zip(inst.STAGES, times, strict=True):
            yield Point(inst.STAGE_DURATION, [round(seconds, 6)], {"stage": stage})
        yield Point(inst.BATCH_SIZE, [exchange.batch])
        yield Point(inst.QUEUE_DEPTH, [exchange.waiting])
        confidence: list[float] = exchange.probabilities.max(axis=1).tolist()
        yield Point(inst.CONFIDENCE, [round(value, 6) for value in confidence])
        winners: list[int] = exchange.probabilities.argmax(axis=1).tolist()
        for winner in sorted(set(winners)):
            yield Point(inst.PREDICTIONS, [winners.count(winner)], {"class": self._classes[winner]})

    def _process(self) -> Iterable[Point]:
        yield Point(inst.MEMORY, [resources.memory_bytes()])
        before, self._cpu_s = self._cpu_s, resources.cpu_s()
        for mode, was, now in zip(("user", "system"), before, self._cpu_s, strict=True):
            yield Point(inst.CPU_TIME, [round(now - was, 6)], {"cpu.mode": mode})
        if self._start_s is not None:
            yield Point(inst.COLD_STARTS, [1])
            yield Point(inst.COLD_START_DURATION, [round(self._start_s, 3)])
            self._start_s = None

    def _windows(self) -> Iterable[Point]:
        """Drift of the window; written rarely, since one request changes it little."""
        if self._drift is None or self._clock() < self._drift_due:
            return
        self._drift_due = self._clock() + PAUSE_S
        for state in self._drift.state().windows:
            labels = {"window": str(state.window)}
            yield Point(inst.DRIFT_ALARM, [int(state.raised)], labels)
            yield Point(inst.DRIFT_WINDOW_IMAGES, [state.images], labels)

    def _captures(self) -> Iterable[Point]:
        """Counts of captured predictions since the last call, if there were any."""
        if self._recorder is None:
            return
        kept, dropped, waiting = self._recorder.counts
        if kept > self._kept:
            yield Point(inst.CAPTURE_KEPT, [kept - self._kept])
        for reason, number in dropped.items():
            if number > self._dropped.get(reason, 0):
                new = number - self._dropped.get(reason, 0)
                yield Point(inst.CAPTURE_DROPPED, [new], {"reason": reason})
        if waiting:
            yield Point(inst.CAPTURE_WAITING, [waiting])
        self._kept, self._dropped = kept, dropped


def documents(
    points: Iterable[Point], everywhere: Mapping[str, str], facts: Mapping[str, str], now_s: float
) -> list[dict[str, Any]]:
    """The fewest documents: a name of a metric or dimension can have only one value in each.

    Args:
        everywhere: dimensions of every metric.
        facts: further members, which CloudWatch's queries of logs find.
        now_s: seconds since 1970.
    """
    found: list[_Document] = []
    for point in points:
        for start in range(0, len(point.values), MAX_VALUES):
            part = point._replace(values=point.values[start : start + MAX_VALUES])
            if not any(document.take(part) for document in found):
                found.append(_Document(everywhere, facts))
                found[-1].take(part)
    return [document.as_json(now_s) for document in found]


class _Document:
    def __init__(self, everywhere: Mapping[str, str], facts: Mapping[str, str]) -> None:
        self._everywhere = tuple(everywhere)
        self._members: dict[str, Any] = {**facts, **everywhere}
        self._metrics: dict[tuple[str, ...], list[dict[str, str]]] = {}

    def take(self, point: Point) -> bool:
        """Adds the point if there is room; whether there was."""
        name, labels = point.instrument.name, point.labels
        if name in self._members or any(
            self._members.get(label, value) != value for label, value in labels.items()
        ):
            return False
        self._members |= labels
        self._members[name] = point.values[0] if len(point.values) == 1 else list(point.values)
        unit = _UNITS.get(point.instrument.unit, "Count")
        dimensions = (*self._everywhere, *labels)
        self._metrics.setdefault(dimensions, []).append({"Name": name, "Unit": unit})
        return True

    def as_json(self, now_s: float) -> dict[str, Any]:
        directives = [
            {"Namespace": NAMESPACE, "Dimensions": [list(dimensions)], "Metrics": metrics}
            for dimensions, metrics in self._metrics.items()
        ]
        return {
            "_aws": {"Timestamp": int(now_s * 1000), "CloudWatchMetrics": directives},
            **self._members,
        }
