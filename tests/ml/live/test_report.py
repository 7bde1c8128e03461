"""ml/live/report: the gauges through a real collector into a real store."""

from functools import partial
from pathlib import Path

import pytest

from common.captures import Capture, Verdict
from infra.observability.catalogue import load
from ml.artifact.artifact import measured
from ml.live.quality import Known, Model, Quality, Seen, quality
from ml.live.report import export, gauges
from tests.helpers.waiting import wait_until
from tests.ml.drift.tiny_artifact import scenes, write_tiny_artifact
from tests.serve.telemetry.collector import collector


@pytest.fixture
def found(tmp_path: Path) -> Quality:
    """600 answers, of which every other is labelled, a tenth of these as wrong."""
    artifact = write_tiny_artifact(tmp_path / "model.onnx", scenes(2000))
    version, classes = artifact.metadata.version, artifact.metadata.classes
    answers = artifact.predict(images := scenes(600)).probabilities
    rows = [
        Capture(f"{n:032x}", 0, 1.79e9 + n, version, tuple(p.tolist()), 1.0, b"")
        for n, p in enumerate(answers)
    ]
    said = {
        row.key: Verdict(classes[(row.answer + (n % 10 == 0)) % len(classes)], {}, 1.0)
        for n, row in enumerate(rows)
        if n % 2
    }
    seen = Seen(Known(Model(artifact, None), None), rows, signals=measured(images, answers))
    return quality(version, {version: seen}, said, 0.01)


def test_every_gauge_arrives_at_the_store_of_a_real_collector(
    found: Quality, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prometheus = {metric.name: metric.prometheus for metric in load().metrics}
    with collector(tmp_path / "chain") as chain:
        for name, value in chain.environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("OTEL_SERVICE_NAME", "live-here")
        assert export([found])
        sent = gauges([found])
        for one in sent:
            labels = {name.replace(".", "_"): value for name, value in one.attributes.items()}
            pairs = ",".join(f'{name}="{value}"' for name, value in labels.items())
            asked = f"{prometheus[one.name]}{{{pairs}}}"
            wait_until(partial(chain.query, asked), asked)
            assert chain.value(asked) == pytest.approx(one.value)
        (service,) = chain.query("group by (service_name) (kiln_model_accuracy_headroom_ratio)")
        assert service["metric"] == {"service_name": "live-here"}


def test_a_collector_that_takes_nothing_is_noticed(
    found: Quality, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ml.live.report._TIMEOUT_S", 1)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    assert not export([found])
