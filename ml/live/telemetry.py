"""The metrics `kiln.model.accuracy.*`: over OTLP, and to CloudWatch."""

import os
from collections.abc import Sequence
from typing import Any, NamedTuple

from ml.live.estimate import Interval
from ml.live.quality import Quality

NAMESPACE = "Kiln"
_PREFIX = "kiln.model.accuracy."
_TIMEOUT_S = 5
_MOST = 1000  # CloudWatch's limit of values per request


class Gauge(NamedTuple):
    """A gauge of the catalogue, infra/observability/catalogue.toml."""

    name: str
    unit: str
    value: float
    attributes: dict[str, str]


def gauges(found: Sequence[Quality]) -> list[Gauge]:
    """Gauges of each version, and the headroom of the first, the latest."""
    values = [gauge for one in found for gauge in _of_version(one)]
    if found and (headroom := found[0].headroom) is not None:
        values.append(Gauge(f"{_PREFIX}headroom", "1", headroom, {}))
    return values


def _of_version(one: Quality) -> list[Gauge]:
    version = {"kiln.model.version": one.version}
    values = _of_rate("expected", one.whole.expected.accuracy, one.whole.rows, version)
    if labelled := one.whole.labelled:
        values += _of_rate("labelled", labelled.accuracy, labelled.rows, version)
    if one.promise is not None:
        values.append(Gauge(f"{_PREFIX}promised", "1", one.promise, version))
    return values


def _of_rate(kind: str, rate: Interval, rows: int, version: dict[str, str]) -> list[Gauge]:
    bounds = {"value": rate.value, "low": rate.low, "high": rate.high}
    values = [
        Gauge(f"{_PREFIX}{kind}", "1", value, version | {"bound": bound})
        for bound, value in bounds.items()
    ]
    return [*values, Gauge(f"{_PREFIX}rows", "{answer}", float(rows), version | {"kind": kind})]


def check_endpoint() -> None:
    """Checks that the endpoint is set.

    Raises:
        ValueError: OTEL_EXPORTER_OTLP_ENDPOINT is not set.
    """
    if not os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT"):
        raise ValueError("--otlp needs OTEL_EXPORTER_OTLP_ENDPOINT, as http://127.0.0.1:4318")


def export(found: Sequence[Quality]) -> bool:
    """Exports to OTEL_EXPORTER_OTLP_ENDPOINT; False if that failed."""
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader, MetricExportResult
    from opentelemetry.sdk.resources import Resource

    reader = InMemoryMetricReader()  # one that exports by itself does not say whether it could
    resource = Resource.create({"service.name": _service()})
    provider = MeterProvider(metric_readers=[reader], resource=resource)
    meter = provider.get_meter("kiln.live")
    instruments: dict[str, Any] = {}
    for one in gauges(found):
        if one.name not in instruments:
            instruments[one.name] = meter.create_gauge(one.name, one.unit)
        instruments[one.name].set(one.value, one.attributes)
    data = reader.get_metrics_data()
    provider.shutdown()
    exporter = OTLPMetricExporter(timeout=_TIMEOUT_S)
    try:
        return data is None or exporter.export(data) is MetricExportResult.SUCCESS
    finally:
        exporter.shutdown()


def put(found: Sequence[Quality], client: Any) -> None:
    """Puts them into CloudWatch, for the alarm on the headroom."""
    data = cloudwatch_data(found)
    for start in range(0, len(data), _MOST):
        client.put_metric_data(Namespace=NAMESPACE, MetricData=data[start : start + _MOST])


def cloudwatch_data(found: Sequence[Quality]) -> list[dict[str, Any]]:
    """The gauges in CloudWatch's form; service.name is a dimension, as in the service's metrics."""
    return [
        {
            "MetricName": one.name,
            "Value": one.value,
            "Dimensions": [
                {"Name": name, "Value": value}
                for name, value in {"service.name": _service(), **one.attributes}.items()
            ],
        }
        for one in gauges(found)
    ]


def _service() -> str:
    return os.environ.get("OTEL_SERVICE_NAME", "kiln")
