"""The capture metrics as an exporter reads them, and as the log has them on AWS Lambda."""

import json
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from common.model.artifact import ArtifactMetadata
from common.objects import FolderStore
from serve.aws_lambda.embedded_metrics import EmbeddedMetrics
from serve.capture.recorder import Recorder
from serve.capture.watch import register_instruments
from serve.exchange import Exchange
from tests.serve.serving import bundled_predictor, pixels

CATALOGUE: list[dict[str, Any]] = tomllib.loads(
    Path("infra/observability/catalogue.toml").read_text(encoding="utf-8")
)["metric"]


def answered(count: int) -> Exchange:
    exchange = Exchange(None)
    exchange.images = np.stack([pixels(seed) for seed in range(count)])
    exchange.probabilities = np.array([[0.9, 0.1]] * count, np.float32)
    exchange.status = 200
    return exchange


def test_the_instruments_are_those_of_the_catalogue(tmp_path: Path) -> None:
    recorder = Recorder(lambda: FolderStore(tmp_path), "a" * 64, 1.0, 1.0)
    recorder(answered(3), "POST", "/predict/batch")
    assert recorder.flush(30)
    recorder.close(1)
    recorder(answered(1), "POST", "/predict")  # is lost
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader], shutdown_on_exit=False)
    register_instruments(provider.get_meter("test"), recorder)
    data: Any = reader.get_metrics_data()
    provider.shutdown()
    metrics = data.resource_metrics[0].scope_metrics[0].metrics
    found = {
        one.name: (one.unit, one.description, sorted(one.data.data_points[0].attributes))
        for one in metrics
    }
    assert found == {
        entry["name"]: (entry["unit"], entry["description"], entry["labels"])
        for entry in CATALOGUE
        if entry["name"].startswith("kiln.capture.")
    }
    values = {
        (one.name, *point.attributes.values()): point.value
        for one in metrics
        for point in one.data.data_points
    }
    assert values["kiln.capture.kept",] == 3
    assert values["kiln.capture.dropped", "not-written"] == 1


def test_without_a_collector_the_log_has_what_each_call_added(tmp_path: Path) -> None:
    metadata: ArtifactMetadata = bundled_predictor().metadata
    recorder = Recorder(lambda: FolderStore(tmp_path), metadata.version, 1.0, 1.0)
    lines: list[str] = []
    metrics = EmbeddedMetrics(metadata, write=lines.append, recorder=recorder)
    for count in (2, 3):
        recorder(answered(count), "POST", "/predict/batch")
        assert recorder.flush(30)
        metrics(answered(count), "POST", "/predict/batch")
        metrics.flush()
    recorder.close(1)
    found = [json.loads(line).get("kiln.capture.kept") for line in lines]
    assert [one for one in found if one] == [2, 3]
    assert not any("kiln.capture.dropped" in line for line in lines)
