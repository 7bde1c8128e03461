"""What the service writes into its log is what a release reads out of it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping

from hypothesis import given
from hypothesis import strategies as st

from infra.release.aws.function import REPLAY, is_ours, trace_id
from infra.release.evidence.collector import Buckets, counts_by_version, read_buckets
from serve.aws_lambda.embedded_metrics import Point, documents
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
