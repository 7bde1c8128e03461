"""The chain that other tests send to: what the SDK exports comes out at its ends."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from tests.helpers.waiting import wait_until
from tests.serve.telemetry.collector import Chain, collector

RESOURCE = Resource({"service.name": "a-service", "deployment.environment.name": "test"})


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    with collector(tmp_path_factory.mktemp("chain")) as chain:
        yield chain


def test_metrics_can_be_asked_for_by_their_prometheus_names(chain: Chain) -> None:
    exporter = OTLPMetricExporter(f"{chain.endpoint}/v1/metrics")
    provider = MeterProvider([PeriodicExportingMetricReader(exporter)], RESOURCE)
    meter = provider.get_meter("test")
    counter, latency = meter.create_counter("apples"), meter.create_histogram("wait", unit="s")
    counter.add(3, {"colour": "red"})
    counter.add(4, {"colour": "green"})
    latency.record(0.25)
    assert provider.force_flush()
    counter.add(1, {"colour": "red"})
    provider.shutdown()

    wait_until(lambda: chain.value('apples_total{colour="red"}') == 4, "the second export")
    (green,) = chain.query('apples_total{colour="green"}')
    assert green["value"][1] == "4"
    assert green["metric"]["service_name"] == "a-service", green
    assert chain.value("wait_seconds_count") == 1
    assert {"apples_total", "wait_seconds_bucket", "wait_seconds_sum"} <= set(chain.names())
    assert chain.value("pears_total") is None


def test_spans_and_logs_arrive_once_with_their_ids_attributes_and_resource(chain: Chain) -> None:
    traces = TracerProvider(resource=RESOURCE)
    traces.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(f"{chain.endpoint}/v1/traces")))
    tracer = traces.get_tracer("test")
    with tracer.start_as_current_span("outer", attributes={"n": 3}) as outer:
        tracer.start_span("inner").end()
    traces.shutdown()
    logs = LoggerProvider(resource=RESOURCE)
    logs.add_log_record_processor(
        BatchLogRecordProcessor(OTLPLogExporter(f"{chain.endpoint}/v1/logs"))
    )
    logs.get_logger("test").emit(body="a fact", attributes={"elapsed_ms": 1.5})
    logs.shutdown()

    wait_until(lambda: len(chain.spans) >= 2 and chain.logs, "spans and a log")
    inner, root = sorted(chain.spans, key=lambda span: span.name)
    assert (inner.name, root.name, root.attributes) == ("inner", "outer", {"n": 3})
    assert inner.parent_id == root.span_id == format(outer.get_span_context().span_id, "016x")
    assert inner.trace_id == root.trace_id
    assert root.resource["service.name"] == "a-service"
    (log,) = chain.logs
    assert (log.body, log.attributes["elapsed_ms"]) == ("a fact", 1.5)


def test_a_frozen_collector_answers_when_it_is_thawed(chain: Chain) -> None:
    chain.freeze()
    try:
        exporter = OTLPMetricExporter(f"{chain.endpoint}/v1/metrics", timeout=0.2)
        provider = MeterProvider([PeriodicExportingMetricReader(exporter)], RESOURCE)
        counter = provider.get_meter("test").create_counter("late")
        counter.add(1)
        provider.force_flush(200)
    finally:
        chain.thaw()
    provider.shutdown()
    wait_until(lambda: chain.value("late_total") == 1, "the export after the thaw")
