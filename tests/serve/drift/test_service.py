"""The monitor in a running application, and its metrics as an exporter reads them."""

import logging
import time
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from starlette.testclient import TestClient

from serve.aws_lambda.invocation import LambdaTelemetry
from serve.drift.monitor import DriftMonitor, register_instruments, watch_traffic
from serve.exchange import Exchange
from serve.http.app import create_app
from serve.settings import Settings
from serve.telemetry.telemetry import Telemetry
from tests.serve.serving import base64_of, bundled_predictor, image_file, pixels

CATALOGUE: list[dict[str, Any]] = tomllib.loads(
    Path("infra/observability/catalogue.toml").read_text(encoding="utf-8")
)["metric"]

Metrics = Mapping[str, list[tuple[Mapping[str, Any], float]]]


@pytest.fixture(scope="module")
def predictor() -> Any:
    return bundled_predictor()


def send(client: TestClient, images: list[NDArray[np.uint8]]) -> None:
    files = [base64_of(image_file(image)) for image in images]
    response = client.post("/predict/batch", json={"images": files})
    assert response.json()["succeeded"] == len(images)


def exported(monitor: DriftMonitor) -> Metrics:
    """Labels and value of every point, by metric."""
    return {
        metric.name: [(dict(point.attributes), point.value) for point in metric.data.data_points]
        for metric in read(monitor)
    }


def read(monitor: DriftMonitor) -> list[Any]:
    """Metrics, as an exporter gets them."""
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader], shutdown_on_exit=False)
    register_instruments(provider.get_meter("test"), monitor)
    data: Any = reader.get_metrics_data()  # of gauges and sums alone
    provider.shutdown()
    (metrics,) = (
        scope.metrics for resource in data.resource_metrics for scope in resource.scope_metrics
    )
    return list(metrics)


def test_foreign_images_raise_an_alarm_in_the_log_and_in_the_metrics(
    predictor: Any, caplog: pytest.LogCaptureFixture
) -> None:
    settings = Settings(cpus=1, drift_rate=1_000, deadline_ms=60_000)
    telemetry = Telemetry.start(settings, predictor.metadata, environ={})
    monitor = watch_traffic(telemetry, settings, predictor.metadata)
    assert monitor is not None
    with TestClient(create_app(predictor, settings, observer=telemetry.observer)) as client:
        assert client.get("/health").status_code == 200
        send(client, [pixels(seed) for seed in range(90)])
    metrics = exported(monitor)
    monitor.close()
    assert [r.message for r in caplog.records if r.levelno >= logging.WARNING] == ["drift raised"]
    assert {labels["window"]: value for labels, value in metrics["kiln.drift.alarm"]} == {
        "300": 1,
        "3000": 0,
    }
    scores = {
        (labels["signal"], labels["statistic"]): value
        for labels, value in metrics["kiln.drift.score"]
    }
    thresholds = {
        (labels["signal"], labels["statistic"]): value
        for labels, value in metrics["kiln.drift.threshold"]
    }
    assert scores["sharpness", "ks"] > thresholds["sharpness", "ks"]
    assert len(scores) == 19
    assert sum(value for _, value in metrics["kiln.drift.window.images"]) == 90


def test_bins_add_up_so_that_a_fleet_can_be_compared(predictor: Any) -> None:
    monitors = [DriftMonitor(predictor.metadata, rate=1_000) for _ in range(2)]
    for monitor, count in zip(monitors, (3, 5), strict=True):
        app = create_app(predictor, Settings(cpus=1, deadline_ms=60_000), observer=monitor)
        with TestClient(app) as client:
            send(client, [pixels(seed) for seed in range(count)])
    first, second = (exported(monitor) for monitor in monitors)
    for monitor in monitors:
        monitor.close()
    assert [labels for labels, _ in first["kiln.drift.images"]] == [
        labels for labels, _ in first["kiln.drift.reference.share"]
    ]
    by_signal: dict[str, float] = {}
    shares: dict[str, float] = {}
    for labels, value in [*first["kiln.drift.images"], *second["kiln.drift.images"]]:
        by_signal[labels["signal"]] = by_signal.get(labels["signal"], 0) + value
    for labels, value in first["kiln.drift.reference.share"]:
        shares[labels["signal"]] = shares.get(labels["signal"], 0) + value
    assert set(by_signal.values()) == {8}
    assert shares == pytest.approx(dict.fromkeys(by_signal, 1), abs=1e-4)


def test_the_instruments_are_those_of_the_catalogue(predictor: Any) -> None:
    monitor = DriftMonitor(predictor.metadata)
    exchange = Exchange(None)
    exchange.images = np.stack([pixels(seed) for seed in range(60)])
    exchange.probabilities = predictor(exchange.images)
    monitor(exchange, "POST", "/predict/batch")
    found = {
        metric.name: (metric.unit, metric.description, set(metric.data.data_points[0].attributes))
        for metric in read(monitor)
    }
    monitor.close()
    assert found == {
        entry["name"]: (entry["unit"], entry["description"], set(entry["labels"]))
        for entry in CATALOGUE
        if entry["name"].startswith("kiln.drift.")
    }


def test_exports_that_follow_each_other_closely_go_without(predictor: Any) -> None:
    now = [100.0]
    monitor, reader = DriftMonitor(predictor.metadata), InMemoryMetricReader()
    provider = MeterProvider([reader], shutdown_on_exit=False)
    register_instruments(provider.get_meter("test"), monitor, clock=lambda: now[0])
    found = []
    for wait in (0, 1, 13, 1):
        now[0] += wait
        found.append(reader.get_metrics_data() is not None)
    provider.shutdown()
    monitor.close()
    assert found == [True, False, False, True]


def test_on_lambda_the_log_tells_of_drift_without_a_collector(
    predictor: Any, caplog: pytest.LogCaptureFixture
) -> None:
    settings = Settings(cpus=1, deadline_ms=60_000)
    lambda_telemetry = LambdaTelemetry.start(settings, predictor.metadata, environ={})
    with TestClient(create_app(predictor, settings, observer=lambda_telemetry.observer)) as client:
        send(client, [pixels(seed) for seed in range(90)])
        for _ in range(100):  # the monitor's thread is about to say it
            if "drift raised" in caplog.messages:
                break
            time.sleep(0.1)
    assert "drift raised" in caplog.messages


def test_a_rate_of_zero_watches_nothing(predictor: Any) -> None:
    settings = Settings(cpus=1, drift_rate=0)
    telemetry = Telemetry.start(settings, predictor.metadata, environ={})
    assert watch_traffic(telemetry, settings, predictor.metadata) is None
