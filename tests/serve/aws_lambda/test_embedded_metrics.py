"""Metrics in the log: CloudWatch takes each line, and together they say what happened."""

from __future__ import annotations

import json
import signal
from collections import Counter
from pathlib import Path

import jsonschema  # type: ignore[import-untyped]
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve.aws_lambda.embedded_metrics import EmbeddedMetrics, Point, documents
from serve.drift.monitor import DriftMonitor
from serve.exchange import Exchange
from serve.telemetry import instruments
from serve.telemetry.instruments import Instrument
from tests.serve.aws_lambda.embedded_metric_format import MAX_LINE_BYTES, Sample, samples
from tests.serve.aws_lambda.local_function import local_function
from tests.serve.serving import base64_of, bundled_predictor, image_file, pixels

IMAGE = base64_of(image_file(pixels()))
UNITS = {"s": "Seconds", "By": "Bytes", "1": "None"}

labels = st.dictionaries(st.sampled_from("abc"), st.text("xyz", min_size=1, max_size=2), max_size=3)
values = st.sampled_from([[1], [2, 3], [7] * 100, [5] * 101])
points = st.lists(
    st.builds(
        lambda name, found, some: Point(Instrument(name, "counter", "1", ""), found, some),
        st.sampled_from(["one", "two"]),
        values,
        labels,
    ),
    max_size=6,
)


@settings(deadline=None, max_examples=50)
@given(points)
def test_lines_hold_every_value_once_under_its_own_labels(given_points: list[Point]) -> None:
    lines = documents(given_points, {"service": "s"}, {"trace_id": "t"}, 1.5)
    found = Counter(
        (sample.name, sample.dimensions, sample.value) for line in lines for sample in samples(line)
    )
    assert found == Counter(
        (point.instrument.name, tuple(sorted({**point.labels, "service": "s"}.items())), value)
        for point in given_points
        for value in point.values
    )
    assert all(line["trace_id"] == "t" and line["_aws"]["Timestamp"] == 1500 for line in lines)


def test_what_the_format_forbids_is_noticed() -> None:
    (line,) = documents([Point(instruments.SHED, [1])], {"service": "s"}, {}, 0.0)
    assert samples(line)
    with pytest.raises(jsonschema.ValidationError):
        samples({**line, "_aws": {"CloudWatchMetrics": []}})
    with pytest.raises(AssertionError):
        samples({**line, "kiln.requests.shed": [1] * 101})
    with pytest.raises(KeyError):
        samples({name: line[name] for name in ("_aws", "service")})


def lines_of(log: Path) -> list[dict[str, object]]:
    """Those of the metrics, among all that the process wrote."""
    lines = [line for line in log.read_text().splitlines() if line.startswith('{"_aws"')]
    assert all(len(line) <= MAX_LINE_BYTES for line in lines)
    return [json.loads(line) for line in lines]


def test_without_a_collector_the_log_of_the_function_has_the_metrics(tmp_path: Path) -> None:
    batch = json.dumps({"images": [IMAGE] * 100}).encode()
    variables = {"OTEL_SERVICE_NAME": "shop", "AWS_LAMBDA_FUNCTION_VERSION": "12"}
    with local_function(tmp_path, variables) as function:
        function.freeze_after_each_answer()
        for _ in range(3):
            status, answer = function.ask("POST", "/predict", json.dumps({"image": IMAGE}).encode())
            assert status == 200
        assert function.ask("POST", "/predict/batch", batch)[0] == 200
        assert function.ask("POST", "/predict", b"{")[0] == 400
        # Frozen: what is not in the log by now never will be.
        lines = lines_of(function.log)
    found = [sample for line in lines for sample in samples(line)]

    assert all(line["faas.version"] == "12" for line in lines)
    assert {sample.namespace for sample in found} == {"Kiln"}
    assert all(("service.name", "shop") in sample.dimensions for sample in found)
    assert_as_catalogued(found)
    requests = of(found, "http.server.request.duration")
    statuses = Counter(dict(sample.dimensions)["http.response.status_code"] for sample in requests)
    assert statuses == {"200": 4, "400": 1}
    assert sum(sample.value for sample in of(found, "kiln.predictions")) == 103
    mix = Counter(dict(sample.dimensions)["class"] for sample in of(found, "kiln.predictions"))
    assert set(mix) == {answer["label"]}
    assert len(of(found, "kiln.confidence")) == 103
    assert [sample.value for sample in of(found, "kiln.cold_starts")] == [1]
    windows = {sample.dimensions: sample.value for sample in of(found, "kiln.drift.alarm")}
    assert {dict(dimensions)["window"] for dimensions in windows} == {"300", "3000"}
    (error,) = of(found, "kiln.errors")
    assert dict(error.dimensions)["error.type"] == "malformed-json"


def assert_as_catalogued(found: list[Sample]) -> None:
    known = {instrument.name: instrument for instrument in instruments.ALL}
    for sample in found:
        instrument = known[sample.name]
        assert sample.unit == UNITS.get(instrument.unit, "Count")
        assert {name for name, _ in sample.dimensions} <= {"service.name", *instrument.labels}


def of(found: list[Sample], name: str) -> list[Sample]:
    return [sample for sample in found if sample.name == name]


def test_drift_is_told_with_the_next_call_and_then_every_quarter_of_a_minute() -> None:
    predictor = bundled_predictor()
    monitor = DriftMonitor(predictor.metadata, rate=1_000)
    lines: list[str] = []
    now = [0.0]
    metrics = EmbeddedMetrics(
        predictor.metadata, write=lines.append, drift=monitor, clock=lambda: now[0]
    )
    alarms = []
    for wait in (0, 10, 5):
        now[0] += wait
        exchange = Exchange(None)
        exchange.images = np.stack(
            [pixels(seed) for seed in range(90)]
        )  # noise: nothing photographed
        exchange.probabilities = predictor(exchange.images)
        monitor(exchange, "POST", "/predict/batch")
        metrics(exchange, "POST", "/predict/batch")
        metrics.flush()
        found = [sample for line in lines for sample in samples(json.loads(line))]
        alarms.append(sorted(sample.value for sample in of(found, "kiln.drift.alarm")))
        lines.clear()
    monitor.close()
    assert alarms == [[0, 1], [], [0, 1]]


@pytest.mark.parametrize(
    "variables", [{"OTEL_SDK_DISABLED": "true"}, {"OTEL_METRICS_EXPORTER": "none"}]
)
def test_who_wants_no_metrics_gets_none(tmp_path: Path, variables: dict[str, str]) -> None:
    with local_function(tmp_path, variables) as function:
        assert function.ask("GET", "/ready")[0] == 200
        function.process.send_signal(signal.SIGTERM)
        function.process.wait(60)
        assert lines_of(function.log) == []
