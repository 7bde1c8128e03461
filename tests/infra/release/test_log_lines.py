"""What the service writes into its log is what a release reads out of it."""

from __future__ import annotations

import base64
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.release.aws.function import REPLAY, is_ours, trace_id
from infra.release.evidence.collector import (
    Buckets,
    Collector,
    Environments,
    counts_by_version,
    read_buckets,
    secrets_in,
)
from serve.aws_lambda.embedded_metrics import Point, documents
from serve.http.keys import new_key
from serve.telemetry import instruments as inst

STREAM = "2026/11/26/[7]8c1dfa"
BUCKETS = Buckets((0.01, 0.1), (0.5, 0.9))


def lines(
    route: str, status: int, seconds: float, answers: list[tuple[str, float]], trace: str = "ab"
) -> list[str]:
    """As serve/aws_lambda writes them for one request."""
    labels = {"http.route": route, "http.response.status_code": str(status)}
    points = [Point(inst.REQUEST_DURATION, [seconds], labels)]
    if answers:
        points.append(Point(inst.CONFIDENCE, [confidence for _, confidence in answers]))
    for name in sorted({name for name, _ in answers}):
        count = sum(name == other for other, _ in answers)
        points.append(Point(inst.PREDICTIONS, [count], {"class": name}))
    facts = {"trace_id": trace, "faas.version": "7"}
    return [json.dumps(line) for line in documents(points, {"service.name": "kiln"}, facts, 1.5)]


def test_a_batch_is_one_request_and_many_answers() -> None:
    written = lines("/predict/batch", 200, 0.05, [("cat", 0.95), ("dog", 0.4), ("cat", 0.7)])
    assert len(written) > 1  # a class each
    tally = counts_by_version([(STREAM, line) for line in written], ("7",), BUCKETS)["7"]
    arm = tally.arm(0, ("cat", "dog"))
    assert (arm.requests, arm.errors, arm.latency) == (1, 0, (0, 1, 0))
    assert (arm.classes, arm.confidence) == ((2, 1), (1, 1, 1))


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["/predict", "/predict/batch", "/health", ""]),
            st.sampled_from([200, 400, 429, 500, 503]),
            st.floats(0, 1),
        ),
        max_size=20,
    )
)
def test_only_what_callers_come_for_counts_and_only_5xx_is_an_error(
    requests: list[tuple[str, int, float]],
) -> None:
    events = [(STREAM, line) for r in requests for line in lines(*r, answers=[])]
    arm = counts_by_version(events, ("7",), BUCKETS)["7"].arm(0, ())
    counted = [status for route, status, _ in requests if route.startswith("/predict")]
    assert arm.requests == len(counted)
    assert arm.errors == sum(status >= 500 for status in counted)
    refused = Counter(str(status) for status in counted if 400 <= status < 500)
    assert arm.refusals == dict(refused)
    assert sum(arm.latency) == arm.requests - arm.errors


def test_calls_that_died_without_a_line_are_requests_that_failed() -> None:
    arm = counts_by_version([(STREAM, lines("/predict", 200, 0.05, [])[0])], ("7",), BUCKETS)[
        "7"
    ].arm(3, ())
    assert (arm.requests, arm.errors) == (4, 3)


def test_what_the_release_manager_asks_is_no_traffic() -> None:
    events = [(STREAM, line) for line in lines("/predict", 500, 0.1, [], trace_id(REPLAY))]
    assert counts_by_version(events, ("7",), BUCKETS)["7"].requests == 0
    assert not is_ours("00" * 16)


def test_other_versions_and_other_lines_are_left_out() -> None:
    line = lines("/predict", 200, 0.1, [])[0]
    old: Mapping[str, object] = {
        name: value for name, value in json.loads(line).items() if name != "faas.version"
    }
    events = [
        (STREAM, "START RequestId: 8f2c Version: 7"),
        (STREAM, '{"_aws": cut off'),
        (STREAM, '{"level": "INFO"}'),
        (STREAM.replace("7", "8"), line),  # what the line says counts
        (STREAM.replace("7", "8"), json.dumps(old)),  # where it does not, the stream's name does
    ]
    found = counts_by_version(events, ("7", "8"), BUCKETS)
    assert (found["7"].requests, found["8"].requests) == (1, 1)


def test_the_catalogue_has_the_buckets() -> None:
    buckets = read_buckets()
    assert buckets.latency_s[0] == 0.001
    assert buckets.confidence[-1] == 1.0


# ---- Lambda's own lines, and what no line may hold ----


def report(peak_mb: int, start: str = "") -> str:
    """As Lambda writes it behind each call."""
    return (
        "REPORT RequestId: 8f2c\tDuration: 6.31 ms\tBilled Duration: 7 ms\tMemory Size: 1024 MB\t"
        f"Max Memory Used: {peak_mb} MB\t{start}"
    )


def test_memory_is_judged_once_an_environment_has_settled_down() -> None:
    environments = Environments(BUCKETS.latency_s)
    young = [(STREAM, report(100 + 5 * n)) for n in range(20)]  # loads what it needs
    first = environments.reports([*young, (STREAM, report(195)), ("other", report(512))])
    assert (first.calls, first.settled, first.grew, first.peak) == (22, 1, 0, 0.5)
    leaking = [(STREAM, report(195 + 4 * n)) for n in range(1, 11)]
    second = environments.reports(leaking)  # of the next window
    assert (second.settled, second.grew, second.grown_mb) == (10, 10, 40)


def test_cold_starts_and_restored_snapshots_are_counted_by_their_time() -> None:
    events = [
        (STREAM, report(90, "Init Duration: 8.20 ms\t")),
        (STREAM, report(90, "Restore Duration: 42.00 ms\tBilled Restore Duration: 9 ms\t")),
        (STREAM, report(90)),
        (STREAM, "a line that says Init Duration: 8 ms"),
    ]
    earlier = [("before", report(90, "Init Duration: 312.00 ms\t"))]
    found = Environments(BUCKETS.latency_s).reports(events, earlier)
    assert (found.calls, found.starts) == (3, (1, 1, 1))


def test_cold_starts_are_looked_for_in_a_bounded_part_of_the_log_newest_first() -> None:
    """A day of a busy function's log would hold up a rollback for hours."""
    asked: list[int] = []

    def paginate(**query: Any) -> Iterator[dict[str, Any]]:
        while True:  # the log never ends
            asked.append(query["startTime"])
            yield {"events": [{"logStreamName": STREAM, "message": report(90, "Init Duration")}]}

    logs = SimpleNamespace(get_paginator=lambda _: SimpleNamespace(paginate=paginate))
    collector = Collector(SimpleNamespace(logs=logs), "kiln", "live")  # type: ignore[arg-type]
    found = collector._starts(100_000.0, 100_004.0)
    assert len(found) == len(asked) == 20
    assert set(asked) == {(100_000 - 600) * 1000}


PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 2
AWS_KEY = "AKIA" + "Z" * 16


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        (f"key {AWS_KEY} was refused", "an AWS key"),
        (f'{{"AWS_SECRET_ACCESS_KEY": "{"aB3/" * 10}"}}', "an AWS key"),
        ("-----BEGIN EC PRIVATE KEY-----", "a private key"),
        (f"Authorization: Bearer {'x1' * 10}", "a token"),
        (f"{{'authorization': 'Basic {'x1' * 10}'}}", "a token"),
        (f"token eyJ{'x1' * 10}.eyJ{'x1' * 10}.{'x1' * 10}", "a token"),
        (f"x-api-key: {'x1' * 10}", "an API key"),
        (new_key()[0], "an API key"),
        (json.dumps({"image": base64.b64encode(PNG).decode()}), "image data"),
        (f"body={PNG!r}", "image data"),
        (f"body={PNG.decode('latin-1')}", "image data"),
        (f"body={PNG.decode('utf-8', 'replace')}", "image data"),
        (f"pixels {list(range(200))}", "image data"),
        (bytes(200).hex(), "image data"),
    ],
)
def test_a_line_with_a_secret_is_told_by_its_kind(line: str, kind: str) -> None:
    lines, found = secrets_in([line, "model loaded"])
    assert (lines, dict(found)) == (2, {kind: 1})


def test_what_the_service_and_lambda_write_is_no_secret() -> None:
    digest = new_key()[1]  # stands in the configuration
    answers = [("cat", 0.9), ("dog", 0.4)] * 50
    written = [
        *lines("/predict/batch", 200, 0.05, answers, trace_id(REPLAY)),
        report(90, "Init Duration: 8.20 ms\t"),
        "START RequestId: 3f0b8f0c-5e2f-4a39-9b1e-6d2f5c8c1f11 Version: 7",
        f"KILN_API_KEYS={digest}",
        f'  File "{"/var/task/serve/aws_lambda" * 9}.py", line 3, in handler',
        "x-api-key is missing: send it as the header X-API-Key, or as Authorization: Bearer",
        f"model {'a1' * 32} at arn:aws:lambda:eu-central-1:123456789012:function:kiln-prod:live",
    ]
    assert secrets_in(written)[1] == {}
