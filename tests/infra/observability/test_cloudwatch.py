"""Alarms watch series that exist: the real handler's lines have each one's name and dimensions."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from common.model.drift import WatchLimits
from infra.observability import cloudwatch
from infra.observability.catalogue import kebab, load
from infra.twin.cloud.alarms import Values, evaluate
from serve import errors
from serve.http.routes import ENDPOINTS
from tests.serve.aws_lambda.embedded_metric_format import Sample, samples
from tests.serve.aws_lambda.local_function import local_function
from tests.serve.serving import base64_of, image_file, pixels

CATALOGUE = load()
ALARMS = [*cloudwatch.alarms(CATALOGUE), *cloudwatch.parts(CATALOGUE)]
SERIES = sorted(
    {
        (one.metric, tuple(sorted(one.dimensions.items())))
        for alarm in ALARMS
        for one in alarm.series.values()
        if one.namespace == cloudwatch.NAMESPACE
        and CATALOGUE[one.metric].owner == "service"  # tests/ml/live looks at those of //ml:live
    }
)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> list[Sample]:
    """What CloudWatch makes of a function's log after predictions and a mistake of a caller."""
    image = base64_of(image_file(pixels()))
    tensor = {"name": "images", "shape": [1, 32, 32, 3], "datatype": "UINT8"}
    inference = json.dumps({"inputs": [{**tensor, "data": pixels().ravel().tolist()}]}).encode()
    with local_function(tmp_path_factory.mktemp("function"), {}) as function:
        function.freeze_after_each_answer()
        assert function.ask("POST", "/predict", json.dumps({"image": image}).encode())[0] == 200
        _, model = function.ask("GET", "/model/info")
        name, version = model["name"], model["version"]
        for path in (f"/v2/models/{name}/infer", f"/v2/models/{name}/versions/{version}/infer"):
            assert function.ask("POST", path, inference)[0] == 200
        assert function.ask("POST", "/predict", b"{")[0] == 400
        lines = function.log.read_text().splitlines()
    return [
        one for line in lines if line.startswith('{"_aws"') for one in samples(json.loads(line))
    ]


@pytest.mark.parametrize(("metric", "dimensions"), SERIES, ids=str)
def test_an_alarm_s_series_is_one_that_the_handler_writes(
    written: list[Sample], metric: str, dimensions: tuple[tuple[str, str], ...]
) -> None:
    expected = {name: value.replace("${var.service_name}", "kiln") for name, value in dimensions}
    if expected.get("error.type") in cloudwatch.SERVER_ERRORS:
        expected["error.type"] = "malformed-json"  # the mistake that was provoked
    assert (metric, expected) in [(one.name, dict(one.dimensions)) for one in written]


def test_the_errors_that_count_are_those_with_a_5xx() -> None:
    kinds = sorted(error.kind for error in errors.ALL if error.status >= 500)
    assert kinds == sorted(cloudwatch.SERVER_ERRORS)
    assert tuple(map(str, WatchLimits().windows)) == cloudwatch.DRIFT_WINDOWS


def test_the_answers_that_are_timed_are_those_of_the_catalogue() -> None:
    (timed,) = {one.routes for one in CATALOGUE.objectives if one.threshold_s}
    (alert,) = (alert for _, alert in CATALOGUE.alerts if alert.name == "SlowAnswers")
    assert alert.matching == {"http.route": timed}
    posted = [one.path for one in ENDPOINTS if one.method == "POST"]
    assert [one for one in posted if re.fullmatch(timed, one)] == [*cloudwatch.ANSWERS.values()]
    assert "/predict/batch" in posted


def test_slow_answers_are_counted_over_all_routes() -> None:
    (slow,) = {
        one.expression for one in cloudwatch.parts(CATALOGUE) if one.name.startswith("latency-")
    }
    nothing: dict[str, Values] = {name: [None] for name in re.findall(r"[a-z_]+", slow)}
    assert evaluate(slow, nothing, 1) == [None]
    seen: dict[str, Values] = {"predict_all": [90], "predict_within": [100]}
    assert evaluate(slow, nothing | seen, 1) == [0]
    seen |= {"infer_all": [10], "infer_within": [50]}
    assert list(evaluate(slow, nothing | seen, 1)) == pytest.approx([0.05])


def test_every_alert_has_an_alarm_or_a_reason() -> None:
    alerts = {alert.name for _, alert in CATALOGUE.alerts} | {CATALOGUE.recovery.name}
    for objective in CATALOGUE.objectives:
        alerts |= {f"{objective.alert}FastBurn", f"{objective.alert}SlowBurn"}
    assert set(cloudwatch.WITHOUT_ALARM) <= alerts
    alarmed = {one.name for one in cloudwatch.alarms(CATALOGUE)}
    alarmed |= {one.name for one in cloudwatch.composites(CATALOGUE)}
    assert alarmed == {kebab(name) for name in alerts - set(cloudwatch.WITHOUT_ALARM)}


def test_a_description_fits_and_leads_to_the_runbook() -> None:
    for alarm in cloudwatch.alarms(CATALOGUE):
        assert len(alarm.description) <= 1024  # CloudWatch's limit
        link = f"{CATALOGUE.runbook}#{alarm.name.replace('-', '')}"
        assert alarm.description.endswith(f" {link}")


def test_windows_keep_within_what_cloudwatch_looks_back() -> None:
    for alarm in ALARMS:
        assert alarm.period_s <= 86_400
        assert alarm.period_s % (3600 if alarm.period_s > 3600 else 60) == 0


def test_expressions_name_only_their_own_series() -> None:
    for alarm in ALARMS:
        assert len(alarm.series) == 1 or alarm.expression
        words = set(re.findall(r"[a-z_][a-z_0-9]*", alarm.expression))
        assert words == (set(alarm.series) if alarm.expression else set())


def test_the_dashboard_searches_for_dimensions_that_the_handler_writes(
    written: list[Sample],
) -> None:
    template = Path("infra/terraform/modules/alarms/dashboard.json.tftpl").read_text()
    known = {(one.name, frozenset(name for name, _ in one.dimensions)) for one in written}
    found = list(_searches(json.loads(template)))
    assert len(found) > 5
    assert [one for one in found if one not in known] == []


def _searches(body: dict[str, Any]) -> Iterator[tuple[str, frozenset[str]]]:
    for widget in body["widgets"]:
        for metric in widget["properties"].get("metrics", ()):
            expression = metric[0]["expression"] if isinstance(metric[0], dict) else ""
            if match := re.match(r"SEARCH\('\{Kiln,([^}]*)\} MetricName=\"([^\"]*)\"", expression):
                names = frozenset(name.strip('"') for name in match[1].split(","))
                yield match[2], names
