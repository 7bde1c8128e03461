"""The monitor in a running application, and its metrics as an exporter reads them."""

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from starlette.testclient import TestClient

from serve.app import create_app
from serve.drift.attach import watch_traffic
from serve.drift.instruments import register_instruments
from serve.drift.monitor import DriftMonitor
from serve.settings import Settings
from serve.telemetry.telemetry import Telemetry
from tests.serve.serving import base64_of, bundled_predictor, image_file, pixels

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
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader], shutdown_on_exit=False)
    register_instruments(provider.get_meter("test"), monitor)
    data = reader.get_metrics_data()
    assert data is not None
    (metrics,) = (
        scope.metrics for resource in data.resource_metrics for scope in resource.scope_metrics
    )
    provider.shutdown()
    return {
        metric.name: [
            (dict(point.attributes or {}), point.value) for point in metric.data.data_points
        ]  # type: ignore[union-attr]
        for metric in metrics
    }


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
    names = set(exported(monitor))
    monitor.close()
    assert names == {
        "kiln.drift.alarm",
        "kiln.drift.window.images",
        "kiln.drift.images",
        "kiln.drift.reference.share",
    }  # there are no scores before the first judgement


def test_a_rate_of_zero_watches_nothing(predictor: Any) -> None:
    settings = Settings(cpus=1, drift_rate=0)
    telemetry = Telemetry.start(settings, predictor.metadata, environ={})
    assert watch_traffic(telemetry, settings, predictor.metadata) is None
