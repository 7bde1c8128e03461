"""The catalogue's metrics as CloudWatch embedded metrics in the log.

https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html
"""

import json
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from common.model.artifact import ArtifactMetadata
from serve.call import Call
from serve.drift import metrics as drift_metrics
from serve.drift.monitor import DriftMonitor
from serve.errors import Overloaded
from serve.telemetry import instruments as inst
from serve.telemetry import process
from serve.telemetry.instruments import Instrument
from serve.telemetry.recorder import Recorder, Request
from serve.telemetry.requests import RequestObserver
from serve.telemetry.sampling import Sampler

NAMESPACE = "Kiln"
MAX_VALUES = 100  # of one metric in one line
_UNITS = {"s": "Seconds", "By": "Bytes", "1": "None"}  # of what is counted: "Count"
_SERVICE = "service.name"

Number = float | int


class Point(NamedTuple):
    """Values of one series."""

    instrument: Instrument
    values: Sequence[Number]
    labels: Mapping[str, str] = {}


class EmbeddedMetrics:
    """An `Observer` that writes what it saw when it is flushed; nothing of it waits for anybody.

    `version` is the function's: by it a release compares what its versions did.
    """

    def __init__(
        self,
        metadata: ArtifactMetadata,
        root_path: str = "",
        service: str = "kiln",
        version: str = "",
        write: Callable[[str], object] = lambda line: sys.stdout.write(line),
        drift: DriftMonitor | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._classes, self._service = metadata.classes, service
        recorder = Recorder(metadata.classes)  # has the names of the series, and records nothing
        self._identify = RequestObserver(recorder, Sampler(), None, root_path).identify
        self._write = write
        self._drift, self._clock, self._drift_due = drift, clock, clock()
        self._facts = {"kiln.model.name": metadata.name, "kiln.model.version": metadata.version}
        if version:
            self._facts["faas.version"] = version
        self._calls: list[tuple[Call, Request, float]] = []
        self._cpu_s = process.cpu_s()
        self._start_s: float | None = process.uptime_s()

    def __call__(self, call: Call, method: str, path: str) -> None:
        request = self._identify(method, path, call.status, call.error)
        self._calls.append((call, request, time.perf_counter() - call.start))

    def flush(self) -> bool:
        """Writes the lines of what it saw, and is done."""
        calls, self._calls = self._calls, []
        for call, request, duration_s in calls:
            facts = self._facts | {"trace_id": call.request_id}
            points = [*self._request(call, request, duration_s)]
            if call is calls[0][0]:
                points += [*self._process(), *self._windows()]
            for line in documents(points, {_SERVICE: self._service}, facts, time.time()):
                self._write(json.dumps(line, separators=(",", ":")) + "\n")
        return True

    def renew(self) -> None:
        """Starts afresh in a copy of the process: what the original counted is not reported
        twice."""
        self._calls, self._cpu_s, self._start_s = [], process.cpu_s(), 0.0

    def _request(self, call: Call, request: Request, duration_s: float) -> Iterable[Point]:
        labels = {name: str(value) for name, value in request.labels().items()}
        yield Point(inst.REQUEST_DURATION, [round(duration_s, 6)], labels)
        yield Point(inst.SHED, [int(request.error == Overloaded.kind)])
        if request.error:
            yield Point(inst.ERRORS, [1], {inst.ERROR: request.error})
        if call.probabilities is None:
            return
        times = (call.decode_s, call.queue_s, call.infer_s, call.encode_s)
        for stage, seconds in zip(inst.STAGES, times, strict=True):
            yield Point(inst.STAGE_DURATION, [round(seconds, 6)], {"stage": stage})
        yield Point(inst.BATCH_SIZE, [call.batch])
        yield Point(inst.QUEUE_DEPTH, [call.waiting])
        confidence: list[float] = call.probabilities.max(axis=1).tolist()
        yield Point(inst.CONFIDENCE, [round(value, 6) for value in confidence])
        winners: list[int] = call.probabilities.argmax(axis=1).tolist()
        for winner in sorted(set(winners)):
            yield Point(inst.PREDICTIONS, [winners.count(winner)], {"class": self._classes[winner]})

    def _process(self) -> Iterable[Point]:
        yield Point(inst.MEMORY, [process.memory_bytes()])
        before, self._cpu_s = self._cpu_s, process.cpu_s()
        for mode, was, now in zip(("user", "system"), before, self._cpu_s, strict=True):
            yield Point(inst.CPU_TIME, [round(now - was, 6)], {"cpu.mode": mode})
        if self._start_s is not None:
            yield Point(inst.COLD_STARTS, [1])
            yield Point(inst.COLD_START_DURATION, [round(self._start_s, 3)])
            self._start_s = None

    def _windows(self) -> Iterable[Point]:
        """Drift of the window, seldom, because it changes little with one call."""
        if self._drift is None or self._clock() < self._drift_due:
            return
        self._drift_due = self._clock() + drift_metrics.PAUSE_S
        for state in self._drift.state().windows:
            labels = {"window": str(state.window)}
            yield Point(drift_metrics.ALARM, [int(state.raised)], labels)
            yield Point(drift_metrics.WINDOW_IMAGES, [state.images], labels)


def documents(
    points: Iterable[Point], everywhere: Mapping[str, str], facts: Mapping[str, str], now_s: float
) -> list[dict[str, Any]]:
    """The fewest documents: each name of a metric or dimension has one value in each.

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
        """Whether it had room for the point."""
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
