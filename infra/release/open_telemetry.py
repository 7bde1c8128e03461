"""Release metrics for a collector, where OTEL_EXPORTER_OTLP_ENDPOINT names one."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

Value = tuple[str, float, Mapping[str, str]]  # name, value, attributes

_TIMEOUT_S = 5


def export(values: Sequence[Value]) -> bool:
    """Sends them as gauges; False if the collector did not take them. True without a collector."""
    if not os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT"):
        return True
    provider, meter = _provider()
    for name, value, attributes in values:
        meter.create_gauge(name).set(value, dict(attributes))
    return bool(provider.force_flush(_TIMEOUT_S * 1000))


@cache
def _provider() -> tuple[Any, Any]:
    """Loaded for those who want it: the SDK takes a third of a second."""
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
    from opentelemetry.sdk.resources import Resource

    exporter = OTLPMetricExporter(timeout=_TIMEOUT_S)
    reader = PeriodicExportingMetricReader(exporter, export_interval_millis=float("inf"))
    resource = Resource.create({"service.name": os.environ.get("OTEL_SERVICE_NAME", "kiln")})
    provider = MeterProvider(metric_readers=[reader], resource=resource)
    return provider, provider.get_meter("kiln.release")
