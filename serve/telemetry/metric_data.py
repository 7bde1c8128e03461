"""Converts a `Recorder`'s counts to the SDK's metric data, and the reader that exports them."""

from collections.abc import Callable, Iterable

from opentelemetry.sdk.metrics import Exemplar as SdkExemplar
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
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from serve.telemetry.instruments import Instrument
from serve.telemetry.recorder import Collected, Distribution, Exemplar, Point

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
