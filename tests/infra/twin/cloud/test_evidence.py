"""What functions leave in CloudWatch's logs and metrics."""

from __future__ import annotations

import re
import time
from typing import Any

import pytest
from moto.logs.models import LogEvent

from infra.twin.cloud.cloud import Cloud
from infra.twin.cloud.metrics import embedded_values
from tests.infra.twin.cloud.functions import (
    Functions,
    client,
    create,
    invoke,
    metric_value,
    publish,
)

MEASURING = """
def handler(event, head):
    print(json.dumps({
        "_aws": {"Timestamp": int(time.time() * 1000), "CloudWatchMetrics": [{
            "Namespace": "Kiln", "Dimensions": [["service", "route"], []],
            "Metrics": [{"Name": "size", "Unit": "Bytes"}, {"Name": "parts"}]}]},
        "service": "kiln", "route": "/predict", "size": event["size"], "parts": [1, 2]}))
    if event.get("fail"):
        raise ValueError("asked to")
    return 1
serve(handler)
"""


def statistic(
    cloud: Cloud, name: str, stat: str, namespace: str = "AWS/Lambda", **dimensions: str
) -> float | None:
    """Over everything so far."""
    cloud.flush()
    metric: dict[str, Any] = {
        "Namespace": namespace,
        "MetricName": name,
        "Dimensions": [{"Name": key, "Value": value} for key, value in dimensions.items()],
    }
    return metric_value(cloud, metric, stat)


def test_the_log_of_a_call_is_as_lambda_writes_it(cloud: Cloud, functions: Functions) -> None:
    create(cloud, functions.push(cloud, MEASURING))
    answer, _ = invoke(cloud, event={"size": 5}, Qualifier="live")
    invoke(cloud, event={"size": 6}, Qualifier="live")
    cloud.flush()
    events = client(cloud, "logs").filter_log_events(logGroupName="/aws/lambda/kiln")["events"]
    (stream,) = {event["logStreamName"] for event in events}
    assert re.fullmatch(r"\d{4}/\d\d/\d\d/\[1\][0-9a-f]{32}", stream)
    kinds = [event["message"].split()[0] for event in events]
    assert [kind for kind in kinds if kind.isupper()] == ["START", "END", "REPORT"] * 2
    request = answer["ResponseMetadata"]["HTTPHeaders"]["x-amzn-requestid"]
    assert events[0]["message"] == f"START RequestId: {request} Version: 1"
    assert re.search(r"Duration: [\d.]+ ms\tBilled Duration: \d+ ms", events[3]["message"])
    assert "Init Duration" not in events[-1]["message"]


def test_a_log_that_was_deleted_does_not_come_back_by_itself(
    cloud: Cloud, functions: Functions
) -> None:
    create(cloud, functions.push(cloud, MEASURING))
    logs, name = client(cloud, "logs"), "/aws/lambda/kiln"
    for _ in range(2):
        invoke(cloud, event={"size": 5})
        cloud.flush()
        logs.delete_log_group(logGroupName=name)
        invoke(cloud, event={"size": 5})
        cloud.flush()
        assert logs.describe_log_groups(logGroupNamePrefix=name)["logGroups"] == []
        logs.create_log_group(logGroupName=name)


def test_what_is_older_than_a_moment_can_be_forgotten(cloud: Cloud, functions: Functions) -> None:
    create(cloud, functions.push(cloud, MEASURING))
    logs, group = client(cloud, "logs"), "/aws/lambda/kiln"
    invoke(cloud, event={"size": 5})
    cloud.flush()
    cloud.forget(time.time() - 60)
    assert logs.filter_log_events(logGroupName=group)["events"]
    assert statistic(cloud, "Invocations", "Sum", FunctionName="kiln") == 1
    cloud.forget(time.time() + 1)
    assert logs.filter_log_events(logGroupName=group)["events"] == []
    kind: Any = LogEvent
    assert kind.instances_tracked == []
    assert statistic(cloud, "Invocations", "Sum", FunctionName="kiln") is None
    invoke(cloud, event={"size": 5})
    cloud.flush()
    assert logs.filter_log_events(logGroupName=group)["events"]


def test_each_version_writes_streams_of_its_own(cloud: Cloud, functions: Functions) -> None:
    create(cloud, functions.push(cloud, MEASURING))
    two = publish(cloud, functions.push(cloud, MEASURING + "# another"))
    for version in ("1", two):
        invoke(cloud, event={"size": 5}, Qualifier=version)
    cloud.flush()
    streams = client(cloud, "logs").describe_log_streams(logGroupName="/aws/lambda/kiln")
    names = [stream["logStreamName"] for stream in streams["logStreams"]]
    assert sorted(re.findall(r"\[(.+?)\]", " ".join(names))) == ["1", two]


def test_calls_and_errors_are_counted_for_function_alias_and_version(
    cloud: Cloud, functions: Functions
) -> None:
    create(cloud, functions.push(cloud, MEASURING))
    two = publish(cloud, functions.push(cloud, MEASURING + "# another"))
    for event in ({"size": 1}, {"size": 1}, {"size": 1, "fail": True}):
        invoke(cloud, event=event, Qualifier="live")
    client(cloud, "lambda").update_alias(FunctionName="kiln", Name="live", FunctionVersion=two)
    invoke(cloud, event={"size": 1}, Qualifier="live")
    alias = {"FunctionName": "kiln", "Resource": "kiln:live"}
    assert statistic(cloud, "Invocations", "Sum", FunctionName="kiln") == 4
    assert statistic(cloud, "Invocations", "Sum", **alias) == 4
    assert statistic(cloud, "Invocations", "Sum", **alias, ExecutedVersion="1") == 3
    assert statistic(cloud, "Errors", "Sum", **alias, ExecutedVersion="1") == 1
    assert statistic(cloud, "Errors", "Sum", **alias, ExecutedVersion=two) == 0
    # In another order, as whoever asks may have them.
    assert statistic(cloud, "Errors", "Sum", Resource="kiln:live", FunctionName="kiln") == 1


def test_throttled_calls_are_no_invocations(cloud: Cloud, functions: Functions) -> None:
    create(cloud, functions.push(cloud, MEASURING))
    api = client(cloud, "lambda")
    api.put_function_concurrency(FunctionName="kiln", ReservedConcurrentExecutions=0)
    with pytest.raises(api.exceptions.TooManyRequestsException):
        invoke(cloud)
    assert statistic(cloud, "Throttles", "Sum", FunctionName="kiln") == 1
    assert statistic(cloud, "Invocations", "Sum", FunctionName="kiln") is None


def test_embedded_metrics_are_extracted_with_their_percentiles(
    cloud: Cloud, functions: Functions
) -> None:
    create(cloud, functions.push(cloud, MEASURING))
    for size in range(1, 11):
        invoke(cloud, event={"size": size})
    where = {"service": "kiln", "route": "/predict"}
    assert statistic(cloud, "size", "Sum", "Kiln", **where) == 55
    assert statistic(cloud, "size", "p50", "Kiln", **where) == 5
    assert statistic(cloud, "size", "p99", "Kiln", **where) == 10
    assert statistic(cloud, "parts", "SampleCount", "Kiln", **where) == 20


@pytest.mark.parametrize(
    "line",
    [
        '{"_aws": 1}',
        '{"_aws": {}}',
        '{"_aws"',
        '{"_aws": {"CloudWatchMetrics": [{"Namespace": "a", "Dimensions": [["b"]]}]}}',
    ],
)
def test_lines_that_only_look_like_metrics_are_passed_over(line: str) -> None:
    assert list(embedded_values("eu-central-1", line)) == []
