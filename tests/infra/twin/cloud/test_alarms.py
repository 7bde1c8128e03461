"""Alarms that CloudWatch would raise, and who is told."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.programs import serving
from infra.twin.cloud.alarms import AlarmWatch, UnknownExpression, Values, evaluate
from infra.twin.cloud.cloud import Cloud
from tests.infra.twin.cloud.functions import Functions, client, create, invoke

FAILING = """
def handler(event, head):
    if event.get("fail"):
        raise ValueError
serve(handler)
"""
CALLED = [{"Name": "FunctionName", "Value": "kiln"}, {"Name": "Resource", "Value": "kiln:live"}]


@pytest.fixture
def cloud(tmp_path: Path, functions: Functions) -> Iterator[Cloud]:
    """One whose alarms are evaluated when a test says so."""
    with Cloud(tmp_path, functions.launch, alarms_every_s=3600) as cloud:
        create(cloud, functions.push(cloud, FAILING))
        yield cloud


@pytest.fixture
def received(cloud: Cloud) -> Iterator[list[dict[str, Any]]]:
    """What the topic `alarms` sent to a subscriber."""
    found: list[dict[str, Any]] = []

    class Subscriber(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            found.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            """Silent."""

    sns = client(cloud, "sns")
    topic = sns.create_topic(Name="alarms")["TopicArn"]
    with serving(HTTPServer(("127.0.0.1", 0), Subscriber)) as url:
        sns.subscribe(TopicArn=topic, Protocol="http", Endpoint=url)
        yield found


def metric(name: str, stat: str = "Sum") -> dict[str, Any]:
    where = {"Namespace": "AWS/Lambda", "MetricName": name, "Dimensions": CALLED}
    return {"Metric": where, "Period": 300, "Stat": stat}


def put_alarm(cloud: Cloud, **settings: Any) -> None:
    topic = "arn:aws:sns:eu-central-1:123456789012:alarms"
    client(cloud, "cloudwatch").put_metric_alarm(
        AlarmName="errors",
        ComparisonOperator="GreaterThanThreshold",
        EvaluationPeriods=1,
        AlarmActions=[topic],
        OKActions=[topic],
        **settings,
    )


def state(cloud: Cloud) -> str:
    """After everything so far has been evaluated."""
    cloud.flush()
    AlarmWatch(cloud.region, threading.RLock()).look()
    (alarm,) = client(cloud, "cloudwatch").describe_alarms()["MetricAlarms"]
    return str(alarm["StateValue"])


def call(cloud: Cloud, count: int, fail: bool = False) -> None:
    for _ in range(count):
        invoke(cloud, event={"fail": fail}, Qualifier="live")


def test_an_alarm_is_raised_and_its_topic_told_once(
    cloud: Cloud, received: list[dict[str, Any]]
) -> None:
    put_alarm(
        cloud,
        Namespace="AWS/Lambda",
        MetricName="Errors",
        Dimensions=CALLED,
        Period=300,
        Statistic="Sum",
        Threshold=1,
        TreatMissingData="notBreaching",
    )
    assert state(cloud) == "OK"
    call(cloud, 1, fail=True)
    assert state(cloud) == "OK"
    call(cloud, 1, fail=True)
    assert [state(cloud), state(cloud)] == ["ALARM", "ALARM"]
    (told,) = received
    assert told["Subject"] == 'ALARM: "errors" in eu-central-1'
    message = json.loads(told["Message"])
    assert (message["NewStateValue"], message["OldStateValue"]) == ("ALARM", "OK")
    assert "[2] breach the threshold 1" in message["NewStateReason"]


def test_an_expression_over_series_is_compared(cloud: Cloud) -> None:
    put_alarm(
        cloud,
        Threshold=0.25,
        TreatMissingData="notBreaching",
        Metrics=[
            {"Id": "calls", "MetricStat": metric("Invocations"), "ReturnData": False},
            {"Id": "failed", "MetricStat": metric("Errors"), "ReturnData": False},
            {"Id": "other", "MetricStat": metric("NeverSeen"), "ReturnData": False},
            {"Id": "share", "Expression": "(failed + FILL(other, 0)) / calls"},
        ],
    )
    assert state(cloud) == "OK"  # no calls: nothing to divide
    call(cloud, 3)
    call(cloud, 1, fail=True)
    assert state(cloud) == "OK"
    call(cloud, 1, fail=True)
    assert state(cloud) == "ALARM"


@pytest.mark.parametrize(
    ("treatment", "expected"),
    [
        ("missing", "INSUFFICIENT_DATA"),
        ("notBreaching", "OK"),
        ("breaching", "ALARM"),
        ("ignore", "OK"),
    ],
)
def test_periods_without_data_are_treated_as_the_alarm_says(
    cloud: Cloud, treatment: str, expected: str
) -> None:
    put_alarm(
        cloud,
        Namespace="AWS/Lambda",
        MetricName="Duration",
        Dimensions=CALLED,
        Period=60,
        ExtendedStatistic="p99",
        Threshold=1e6,
        TreatMissingData=treatment,
    )
    assert state(cloud) == expected
    call(cloud, 2)
    assert state(cloud) == "OK"


def test_alarms_are_evaluated_by_themselves(tmp_path: Path, functions: Functions) -> None:
    with Cloud(tmp_path, functions.launch, alarms_every_s=0.1) as cloud:
        put_alarm(
            cloud,
            Namespace="AWS/Lambda",
            MetricName="Errors",
            Dimensions=CALLED,
            Period=60,
            Statistic="Sum",
            Threshold=0,
            TreatMissingData="breaching",
        )
        cloudwatch = client(cloud, "cloudwatch")
        for _ in range(200):
            (alarm,) = cloudwatch.describe_alarms()["MetricAlarms"]
            if alarm["StateValue"] == "ALARM":
                return
    raise AssertionError("never raised")


@given(a=st.floats(-1e6, 1e6), b=st.floats(0.1, 1e6))
def test_arithmetic_is_that_of_numbers(a: float, b: float) -> None:
    series = {"a": [a], "b": [b]}
    assert evaluate("(a + 2 * b) / b - -a", series, 1) == [(a + 2 * b) / b + a]
    assert evaluate("MAX([a, b])", series, 1) == [max(a, b)]
    assert evaluate("SUM([a, b]) * 100", series, 1) == [(a + b) * 100]


def test_what_is_missing_stays_missing_unless_it_is_filled() -> None:
    series: dict[str, Values] = {"a": [1.0, None], "b": [0.0, 2.0]}
    assert evaluate("a + b", series, 2) == [1.0, None]
    assert evaluate("FILL(a, 0) + b", series, 2) == [1.0, 2.0]
    assert evaluate("a / b", series, 2) == [None, None]
    assert evaluate("AVG([a, b])", series, 2) == [0.5, 2.0]


@pytest.mark.parametrize("text", ["c", "a +", "ANOMALY_DETECTION_BAND(a)", "a.b", "'x'"])
def test_what_is_not_known_is_told(text: str) -> None:
    with pytest.raises(UnknownExpression):
        evaluate(text, {"a": [1.0]}, 1)
