"""The service with telemetry on: what a collector gets, and what happens without a good one."""

import contextlib
import json
import re
import time
from collections.abc import Iterator
from typing import Any

import pytest

from common.programs import free_port
from serve.telemetry.telemetry import Telemetry
from tests.serve.server_process import running
from tests.serve.serving import base64_of, image_file, pixels
from tests.serve.telemetry.exporting import BODY, NEVER, service
from tests.serve.telemetry.receiver import Receiver, attributes, points, receiving
from tests.serve.telemetry.test_catalogue import CATALOGUE

OF_OTHERS = ("kiln.drift.", "kiln.capture.")  # who have tests of their own

PATIENCE_S = 30.0
TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.fixture(scope="module")
def received() -> Iterator[Receiver]:
    """What arrived of five requests."""
    with receiving() as receiver, service(receiver.url) as (telemetry, client):
        traced = {"traceparent": f"00-{TRACE}-{SPAN}-01", "tracestate": "vendor=1"}
        # Of two requests that took as long, the later one is the bucket's exemplar.
        assert client.post("/predict", json=BODY).status_code == 200
        assert client.post("/predict", json=BODY, headers=traced).status_code == 200
        unsampled = {"traceparent": f"00-{'9' * 32}-{SPAN}-00"}
        assert client.post("/predict", json=BODY, headers=unsampled).status_code == 200
        trailed = base64_of(image_file(pixels()) + b"\n")
        batch = [BODY["image"]] * 19 + [trailed, "?"]
        assert client.post("/predict/batch", json={"images": batch}).is_success
        assert client.post("/predict", json={"image": "?"}).status_code == 422
        assert telemetry.flush(PATIENCE_S)
        yield receiver


def test_requests_and_answers_are_counted(received: Receiver) -> None:
    found = points(received.metrics()["http.server.request.duration"])
    counts = {
        (labels["http.route"], labels["http.response.status_code"]): series.count
        for labels, series in found
    }
    assert counts == {("/predict", 200): 3, ("/predict/batch", 200): 1, ("/predict", 422): 1}
    assert sum(value for _, value in points(received.metrics()["kiln.predictions"])) == 23
    (_, batches), *_ = points(received.metrics()["kiln.batch.size"])
    assert (batches.count, batches.sum) == (4, 23)
    (labels, errors), *_ = points(received.metrics()["kiln.errors"])
    assert errors == 1
    assert set(labels) == {"error.type"}


def test_all_that_arrives_is_in_the_catalogue(received: Receiver) -> None:
    catalogue = {entry["name"]: entry for entry in CATALOGUE if entry["owner"] == "service"}
    arrived = received.metrics()
    assert {name for name in catalogue if not name.startswith(OF_OTHERS)} == set(arrived)
    kinds = {"counter": "sum", "gauge": "gauge", "histogram": "histogram"}
    for name, metric in arrived.items():
        entry = catalogue[name]
        assert metric.WhichOneof("data") == kinds[entry["kind"]]
        assert (metric.unit, metric.description) == (entry["unit"], entry["description"])
        for labels, series in points(metric):
            assert set(labels) <= set(entry["labels"])
            if entry["kind"] == "histogram":
                assert list(series.explicit_bounds) == entry["buckets"]


def test_an_exemplar_leads_to_the_trace(received: Receiver) -> None:
    series = [found for _, found in points(received.metrics()["http.server.request.duration"])]
    exemplars = [one for found in series for one in found.exemplars]
    (server,) = (
        span for span in received.spans() if span.trace_id.hex() == TRACE and span.kind == 2
    )
    assert any(
        (one.trace_id, one.span_id) == (server.trace_id, server.span_id) for one in exemplars
    )


def test_a_caller_s_trace_has_the_request_and_its_stages(received: Receiver) -> None:
    spans = [span for span in received.spans() if span.trace_id.hex() == TRACE]
    server, *stages = spans
    assert (server.name, server.parent_span_id.hex()) == ("POST /predict", SPAN)
    assert server.trace_state == "vendor=1"
    assert [span.name for span in stages] == ["decode", "queue", "infer", "encode"]
    assert {span.parent_span_id for span in stages} == {server.span_id}
    assert all(
        server.start_time_unix_nano <= span.start_time_unix_nano <= span.end_time_unix_nano
        for span in stages
    )
    now = time.time_ns()
    assert now - 600e9 < server.start_time_unix_nano < server.end_time_unix_nano <= now


def test_a_caller_that_does_not_sample_is_followed(received: Receiver) -> None:
    assert not [span for span in received.spans() if span.trace_id.hex() == "9" * 32]


def test_log_records_carry_their_trace(received: Receiver) -> None:
    (record,) = (one for one in received.logs() if one.trace_id.hex() == TRACE)
    assert record.body.string_value == "request answered"
    assert attributes(record)["status"] == 200


def test_all_signals_say_which_model_and_instance_they_are_of(received: Receiver) -> None:
    resources = received.resources()
    assert len(resources) == 3
    assert all(one == resources[0] for one in resources)
    assert resources[0]["service.name"] == "kiln"
    assert re.fullmatch("[0-9a-f]{64}", resources[0]["kiln.model.version"])
    assert re.fullmatch("[0-9a-f-]{36}", resources[0]["service.instance.id"])


def test_names_and_headers_come_from_the_standard_variables() -> None:
    variables = {
        "OTEL_SERVICE_NAME": "shop",
        "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=test",
        "OTEL_EXPORTER_OTLP_HEADERS": "authorization=secret",
        "OTEL_TRACES_EXPORTER": "none",
        "OTEL_LOGS_EXPORTER": "none",
    }
    with receiving() as receiver, service(receiver.url, **variables) as (telemetry, client):
        client.post("/predict", json=BODY)
        assert telemetry.flush(PATIENCE_S)
        (resource,) = receiver.resources()
    assert resource["service.name"] == "shop"
    assert resource["deployment.environment.name"] == "test"
    assert receiver.headers[0]["authorization"] == "secret"
    assert not receiver.spans()


def test_a_renewed_instance_counts_from_zero_and_keeps_instruments_of_others() -> None:
    with receiving() as receiver, service(receiver.url) as (telemetry, client):
        registered: list[Any] = []
        telemetry.instrument(registered.append)
        client.post("/predict", json=BODY)
        telemetry.renew()
        client.get("/health")
        assert telemetry.flush(PATIENCE_S)
        assert telemetry.flush(PATIENCE_S)
        instances = {one["service.instance.id"] for one in receiver.resources()}
    assert len(registered) == 2
    assert len(instances) == 1
    ((labels, series),) = points(receiver.metrics()["http.server.request.duration"])
    assert (labels["http.route"], series.count) == ("/health", 1)


@pytest.mark.parametrize("trouble", ["absent", "silent", "failing"])
def test_a_bad_collector_costs_data_and_no_request(trouble: str) -> None:
    with contextlib.ExitStack() as stack:
        if trouble == "absent":
            url = f"http://127.0.0.1:{free_port()}"
        else:
            url = stack.enter_context(receiving(0 if trouble == "silent" else 500)).url
        variables = {"OTEL_TRACES_SAMPLER": "always_on", "OTEL_BSP_MAX_QUEUE_SIZE": "10"}
        telemetry, client = stack.enter_context(service(url, **variables))
        assert not telemetry.flush(0.05)
        answers = [client.post("/predict", json=BODY).status_code for _ in range(20)]
        assert answers == [200] * 20
        assert not telemetry.flush(0.05)
        assert dict(_dropped(telemetry))["traces"] >= 100 - 2 * 10


def test_every_worker_is_an_instance_and_sends_what_is_left_when_it_ends() -> None:
    with receiving() as receiver:
        variables = NEVER | {
            "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url,
            "OTEL_TRACES_SAMPLER": "always_on",
            "KILN_LOG_FORMAT": "json",
            "KILN_ACCESS_LOG": "all",
        }
        with running(workers=2, **variables) as server:
            for _ in range(5):
                assert server.ask("POST", "/predict", json.dumps(BODY))[0] == 200
        instances = {one["service.instance.id"] for one in receiver.resources()}
        assert len(instances) == 2
        assert sum(span.name == "POST /predict" for span in receiver.spans()) == 5


def _dropped(telemetry: Telemetry) -> list[tuple[str, int]]:
    assert telemetry._providers is not None
    read = telemetry._providers._dropped(None)  # type: ignore[arg-type]
    return [(str((one.attributes or {})["signal"]), int(one.value)) for one in read]
