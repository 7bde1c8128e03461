"""How often a warm function exports, and that no export leaves anything out for good."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from serve.aws_lambda.invocation import Adapter, FlushingHandler, LambdaTelemetry
from serve.http.app import create_app
from serve.settings import Settings
from serve.telemetry.export import Worker
from tests.helpers.waiting import wait_until
from tests.serve.aws_lambda.events import http_api
from tests.serve.serving import base64_of, bundled_predictor, image_file, pixels
from tests.serve.telemetry.receiver import Receiver, points, receiving

CALLS = 1000
NEVER = "3600000"  # an hour, in milliseconds
CONTEXT = SimpleNamespace(get_remaining_time_in_millis=lambda: 60_000, aws_request_id="id")
HEALTH = http_api("GET", "/health")
BODY = json.dumps({"image": base64_of(image_file(pixels()))}).encode()
PREDICT = http_api("POST", "/predict", BODY, {"content-type": "application/json"})


@contextmanager
def warm(receiver: Receiver, **variables: str) -> Iterator[tuple[FlushingHandler, LambdaTelemetry]]:
    """The handler in this process; metrics are due by the wall clock alone."""
    environment = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url,
        "OTEL_METRIC_EXPORT_INTERVAL": NEVER,
        "OTEL_BSP_SCHEDULE_DELAY": NEVER,
        "OTEL_TRACES_SAMPLER": "always_off",
        **variables,
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        settings, predictor = Settings(cpus=1, access_log="off"), bundled_predictor()
        telemetry = LambdaTelemetry.start(settings, predictor.metadata)
        app = create_app(predictor, settings, observer=telemetry.observer)
        try:
            yield FlushingHandler(Adapter(app, predictor.version), telemetry.flush, 20), telemetry
        finally:
            telemetry.close()


def exports(receiver: Receiver, signal: str = "metrics") -> int:
    return sum(path == f"/v1/{signal}" for path, _ in list(receiver.requests))


def requests(receiver: Receiver) -> int:
    return sum(one.count for _, one in points(receiver.metrics()["http.server.request.duration"]))


def test_a_thousand_warm_calls_export_once_and_lose_nothing() -> None:
    with receiving() as receiver:
        with warm(receiver) as (handler, _):
            for _ in range(CALLS):
                assert handler(HEALTH, CONTEXT)["statusCode"] == 200
            assert exports(receiver) == 1  # of the first call, at once
            assert requests(receiver) == 1
        assert exports(receiver) == 2  # as at SIGTERM
        assert requests(receiver) == CALLS


def test_metrics_are_sent_once_an_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten calls fit one; the process is frozen between them, and runs for no time at all."""
    now = 1e9
    clocks = SimpleNamespace(time=lambda: now, monotonic=time.monotonic)
    monkeypatch.setattr("serve.telemetry.export.time", clocks)
    with receiving() as receiver, warm(receiver) as (handler, _):
        for call in range(100):
            handler(HEALTH, CONTEXT)
            assert exports(receiver) == 1 + call // 10
            now += 360
        assert requests(receiver) == 91  # nine calls behind the last export


def test_spans_are_sent_by_the_call_that_made_them() -> None:
    with receiving() as receiver, warm(receiver, OTEL_TRACES_SAMPLER="always_on") as (handler, _):
        for call in range(1, 6):
            handler(PREDICT, CONTEXT)
            assert exports(receiver, "traces") == call
        assert len(receiver.spans()) == 5 * 5
        assert exports(receiver) == 1


def test_what_a_collector_refused_is_due_at_the_next_call() -> None:
    with receiving(400) as receiver, warm(receiver) as (handler, _):
        handler(HEALTH, CONTEXT)
        receiver.status = 200
        handler.reset()  # or a pause would follow the failure
        handler(HEALTH, CONTEXT)
        assert requests(receiver) == 2


@pytest.mark.parametrize("hours", [-2, 2])
def test_a_clock_that_is_set_makes_metrics_due(hours: int, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = Worker("test", lambda: True, 60)
    due = [worker.is_due]
    assert worker.wait(worker.ask(), time.monotonic() + 60)
    due.append(worker.is_due)
    assert due == [True, False]
    shifted = SimpleNamespace(time=lambda: time.time() + hours * 3600, monotonic=time.monotonic)
    monkeypatch.setattr("serve.telemetry.export.time", shifted)
    wait_until(lambda: worker.is_due)
    worker.stop()
