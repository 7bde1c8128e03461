"""OpenTelemetry's SDK with OTLP exporters over HTTP, imported lazily.

The exporters read OTEL_EXPORTER_OTLP_* themselves: endpoints, headers, time-outs, compression.
"""

import os
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import repeat
from typing import Any, Protocol

from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.metrics import CallbackOptions, Meter, Observation
from opentelemetry.sdk.metrics import Exemplar as SdkExemplar
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricExporter,
    MetricExportResult,
    MetricReader,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from common import resources
from serve.exchange import Exchange
from serve.telemetry import instruments as inst
from serve.telemetry.export import ExportQueue, ExportSettings, Worker
from serve.telemetry.instruments import Instrument
from serve.telemetry.otlp import LogExport, SpanBuilder, SpanExport, Transport
from serve.telemetry.recorder import Collected, Distribution, Exemplar, Point, Recorder, Request

_GAUGES: dict[Instrument, Callable[[], float]] = {
    inst.MEMORY: resources.memory_bytes,
    inst.FILES: resources.open_files,
    inst.THREADS: resources.threads,
    inst.UPTIME: resources.uptime_s,
}


def observe_process(meter: Meter) -> None:
    """Creates instruments of process resources, read at each export."""
    for what, read in _GAUGES.items():
        meter.create_observable_gauge(what.name, [_one(read)], what.unit, what.description)
    cpu = inst.CPU_TIME
    meter.create_observable_counter(cpu.name, [_cpu], cpu.unit, cpu.description)


def _one(read: Callable[[], float]) -> Callable[[CallbackOptions], list[Observation]]:
    return lambda _: [Observation(read())]


def _cpu(_: CallbackOptions) -> list[Observation]:
    modes = zip(("user", "system"), resources.cpu_s(), strict=True)
    return [Observation(seconds, {"cpu.mode": mode}) for mode, seconds in modes]


SCOPE = InstrumentationScope("kiln")


class Exporter(Protocol):
    """Sends items of one signal."""

    def export(self, items: Sequence[Any], /) -> bool: ...

    def shutdown(self) -> object: ...


class Late:
    """Creates its exporter at the first items: a start on AWS Lambda rarely has any."""

    def __init__(self, make: Callable[[], Exporter]) -> None:
        self._make, self._is_over = make, False
        self._made: Exporter | None = None

    def export(self, items: Sequence[Any]) -> bool:
        """Whether the collector accepted them."""
        if self._made is None and not self._is_over:
            self._made = self._make()
        return self._made is not None and self._made.export(items)

    def shutdown(self) -> None:
        """Shuts the exporter down, or prevents its creation."""
        self._is_over = True
        if self._made is not None:
            self._made.shutdown()


class Providers:
    """The OpenTelemetry providers of one service instance."""

    def __init__(
        self,
        settings: ExportSettings,
        facts: Mapping[str, str],
        recorder: Recorder,
        constants: Sequence[Collected] = (),
    ) -> None:
        self._recorder, self._constants = recorder, constants
        self.resource = resource(facts)
        self._queues: list[ExportQueue] = []
        self._workers: list[Worker] = []
        self._reader: Reader | None = None
        self._metrics: Worker | None = None
        self.log_queue: ExportQueue | None = None
        self.traces = "traces" in settings.signals
        if self.traces:
            self._open_traces(settings)
        if "logs" in settings.signals:
            self._open_logs(settings)
        if "metrics" in settings.signals:
            exporter = OTLPMetricExporter(_transport=Transport("METRICS"))
            self._reader = Reader(exporter, self._collect, SCOPE, self.resource)
            interval_s = settings.metrics_interval_s
            self._metrics = Worker(
                "export-metrics",
                self._reader.export,
                interval_s,
                exporter.shutdown,
                on_its_own=settings.on_its_own,
            )
            self._workers.append(self._metrics)
        self._workers += [queue.worker for queue in self._queues]
        readers = [self._reader] if self._reader else []
        provider = MeterProvider(readers, self.resource, shutdown_on_exit=False)
        self.meter: Meter = provider.get_meter(SCOPE.name)
        observe_process(self.meter)
        self.meter.create_observable_counter(
            inst.DROPPED.name, [self._dropped], inst.DROPPED.unit, inst.DROPPED.description
        )

    def trace(
        self, exchange: Exchange, request: Request, path: str, start_ns: int, end_ns: int
    ) -> str:
        """Enqueues a request's spans for export; returns the id of the server span."""
        spans = self._spans.tree(exchange, request, path, start_ns, end_ns)
        self._span_queue.put(spans)
        context = spans[0].context
        return f"{context.span_id:016x}" if context else ""

    def flush(self, deadline_s: float) -> bool:
        """Exports all signals concurrently within the timeout."""
        return _export(self._workers, deadline_s)

    def flush_due(self, deadline_s: float) -> bool:
        """Exports waiting spans and log records, and metrics once per interval.

        Metrics are cumulative: the next export includes what this one omits.
        """
        due = [queue.worker for queue in self._queues if not queue.is_empty]
        if self._metrics is not None and self._metrics.is_due:
            due.append(self._metrics)
        return _export(due, deadline_s)

    def close(self, deadline_s: float) -> None:
        """Flushes and shuts down; threads still running at the timeout end soon after."""
        end = time.monotonic() + deadline_s
        self.flush(deadline_s)
        self.abandon()
        for worker in self._workers:
            worker.join(end)

    def abandon(self) -> None:
        """Shuts the exporters down without waiting."""
        for worker in self._workers:
            worker.stop()

    def _open_traces(self, settings: ExportSettings) -> None:
        late = Late(SpanExport)
        self._spans = SpanBuilder(self.resource, SCOPE)
        self._span_queue = ExportQueue("traces", late.export, *settings.span_queue, late.shutdown)
        self._queues.append(self._span_queue)

    def _open_logs(self, settings: ExportSettings) -> None:
        late = Late(lambda: LogExport(self.resource, SCOPE))
        self.log_queue = ExportQueue("logs", late.export, *settings.log_queue, late.shutdown)
        self._queues.append(self.log_queue)

    def _collect(self) -> list[Metric]:
        collected = [*self._recorder.collect(), *self._constants]
        return metrics(collected, self._recorder.start_ns, time.time_ns())

    def _dropped(self, _: CallbackOptions) -> list[Observation]:
        failures = self._reader.failures if self._reader else 0
        lost = {"metrics": failures} | {queue.name: queue.dropped for queue in self._queues}
        return [Observation(count, {"signal": signal}) for signal, count in lost.items()]


def _export(workers: Sequence[Worker], deadline_s: float) -> bool:
    end = time.monotonic() + deadline_s
    tickets = [worker.ask() for worker in workers]
    return all([*map(Worker.wait, workers, tickets, repeat(end))])


def resource(facts: Mapping[str, str]) -> Resource:
    """Attributes of all signals; OTEL_RESOURCE_ATTRIBUTES and OTEL_SERVICE_NAME override them.

    They do not override the instance id: each worker process has its own counts.
    """
    instance = {"service.instance.id": str(uuid.UUID(bytes=os.urandom(16), version=4))}
    return Resource.create({**facts, **OTELResourceDetector().detect().attributes, **instance})


_CUMULATIVE = AggregationTemporality.CUMULATIVE


class Reader(MetricReader):
    """Collects, on demand, the SDK's instruments and ours, and exports them."""

    def __init__(
        self,
        exporter: MetricExporter,
        collect: Callable[[], list[Metric]],
        scope: InstrumentationScope,
        resource: Resource,
    ) -> None:
        super().__init__()
        self._exporter, self._collect_ours = exporter, collect
        self._scope, self._resource = scope, resource
        self._succeeded = False
        self.failures = 0  # failed exports

    def export(self) -> bool:
        """Whether the collector accepted them."""
        self._succeeded = False
        try:
            self.collect()
        finally:
            self.failures += not self._succeeded
        return self._succeeded

    def _receive_metrics(
        self, metrics_data: MetricsData, timeout_millis: float = 10_000, **kwargs: object
    ) -> None:
        # Equal attributes would overwrite each other in the encoder.
        scopes = {self._scope: self._collect_ours()}
        for one in metrics_data.resource_metrics:
            for found in one.scope_metrics:
                scopes.setdefault(found.scope, []).extend(found.metrics)
        everything = [ScopeMetrics(scope, metrics, "") for scope, metrics in scopes.items()]
        data = MetricsData([ResourceMetrics(self._resource, everything, "")])
        result = self._exporter.export(data, timeout_millis)
        self._succeeded = result is MetricExportResult.SUCCESS

    def shutdown(self, timeout_millis: float = 30_000, **kwargs: object) -> None:
        """There is nothing to shut down."""


def metrics(collected: Iterable[Collected], start_ns: int, now_ns: int) -> list[Metric]:
    """The metrics, cumulative since `start_ns`."""
    return [
        Metric(what.name, what.description, what.unit, _data(what, points, start_ns, now_ns))
        for what, points in collected
    ]


def _data(
    what: Instrument, points: list[Point], start_ns: int, now_ns: int
) -> Sum | Gauge | Histogram:
    if what.kind == "histogram":
        return Histogram([_histogram(what, p, start_ns, now_ns) for p in points], _CUMULATIVE)
    numbers = [_number(point, start_ns, now_ns) for point in points]
    return Gauge(numbers) if what.kind == "gauge" else Sum(numbers, _CUMULATIVE, True)


def _number(point: Point, start_ns: int, now_ns: int) -> NumberDataPoint:
    assert not isinstance(point.value, Distribution)
    return NumberDataPoint(dict(point.labels), start_ns, now_ns, point.value)


def _histogram(what: Instrument, point: Point, start_ns: int, now_ns: int) -> HistogramDataPoint:
    found = point.value
    assert isinstance(found, Distribution)
    return HistogramDataPoint(
        dict(point.labels),
        start_ns,
        now_ns,
        found.count,
        found.total,
        found.counts,
        what.buckets,
        found.smallest,
        found.largest,
        [_exemplar(one) for one in found.exemplars],
    )


def _exemplar(one: Exemplar) -> SdkExemplar:
    span, trace = int(one.span_id, 16), int(one.trace_id, 16)
    return SdkExemplar({}, one.value, one.time_ns, span, trace)
