"""Nothing is lost and nothing counted twice when Lambda freezes the process, or ends it."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.waiting import wait_until
from tests.serve.aws_lambda.local_function import LocalFunction, local_function
from tests.serve.serving import base64_of, image_file, pixels
from tests.serve.telemetry.collector import Chain, collector

BODY = json.dumps({"image": base64_of(image_file(pixels()))}).encode()
EACH_CALL = {
    "OTEL_METRIC_EXPORT_INTERVAL": "1"
}  # has an export of metrics, not one in five seconds
COUNT = "sum(http_server_request_duration_seconds_count)"


@pytest.fixture
def chain(tmp_path: Path) -> Iterator[Chain]:
    with collector(tmp_path / "chain") as chain:
        yield chain


@pytest.fixture
def function(chain: Chain, tmp_path: Path) -> Iterator[LocalFunction]:
    # So long that a busy machine does not make the collector look dead.
    environment = {**chain.environment, **EACH_CALL, "KILN_FLUSH_MS": "20000"}
    with local_function(tmp_path, environment) as function:
        function.freeze_after_each_answer()
        yield function


def predict(function: LocalFunction, times: int) -> None:
    for _ in range(times):
        status, answer = function.ask("POST", "/predict", BODY)
        assert status == 200, answer


def requests(chain: Chain) -> list[str]:
    """The ids of all requests whose span arrived, once for each time that it did."""
    return [span.trace_id for span in chain.spans if "http.route" in span.attributes]


def came_through(chain: Chain, count: int) -> bool:
    """Whether the collector, which forwards a moment later, has passed on so many soon."""
    try:
        wait_until(lambda: chain.value(COUNT) == count and len(requests(chain)) == count, "", 2.0)
    except AssertionError:
        return False
    return True


def assert_exactly(chain: Chain, count: int) -> None:
    wait_until(lambda: chain.value(COUNT) == count, f"{count} requests to be counted")
    wait_until(lambda: len(requests(chain)) >= count, f"the spans of {count} requests")
    assert len(set(requests(chain))) == len(requests(chain)) == count
    spans = [span.span_id for span in chain.spans]
    assert len(set(spans)) == len(spans)
    assert chain.value(COUNT) == count
    assert chain.value("sum(kiln_cold_starts_total)") == 1


def test_a_freeze_right_after_each_answer_loses_and_doubles_nothing(
    chain: Chain, function: LocalFunction
) -> None:
    predict(function, 30)
    assert function.ask("POST", "/predict", b"{")[0] == 400
    assert function.ask("GET", "/ready")[0] == 200
    # The process is frozen for good: what has not been sent by now never will be.
    assert_exactly(chain, 32)
    assert chain.value('sum(kiln_errors_total{error_type="malformed-json"})') == 1
    assert chain.value("sum(kiln_predictions_total)") == 30


def test_a_collector_that_hangs_gets_everything_when_it_is_back(
    chain: Chain, tmp_path: Path
) -> None:
    # One failure, then a pause, then a wait that is long enough.
    environment = {**chain.environment, **EACH_CALL, "KILN_FLUSH_MS": "1500"}
    with local_function(tmp_path, environment) as function:
        predict(function, 3)
        function.freeze_after_each_answer()
        chain.freeze()
        predict(function, 5)
        chain.thaw()

        answered = 8

        def one_more() -> bool:
            nonlocal answered
            predict(function, 1)
            answered += 1
            return came_through(chain, answered)

        wait_until(one_more, "a call that sends everything")
        assert_exactly(chain, answered)


def test_what_a_call_could_not_send_is_sent_at_sigterm(chain: Chain, tmp_path: Path) -> None:
    environment = {**chain.environment, "KILN_FLUSH_MS": "1"}  # nothing is sent in so short a time
    with local_function(tmp_path, environment) as function:
        function.ask("GET", "/ready")
        function.freeze_after_each_answer()
        chain.freeze()
        predict(function, 5)
        chain.thaw()
        function.process.send_signal(signal.SIGTERM)
        function.process.send_signal(signal.SIGCONT)
        assert function.process.wait(60) == -signal.SIGTERM
        assert_exactly(chain, 6)


def test_sigterm_right_after_an_answer_loses_and_doubles_nothing(
    chain: Chain, tmp_path: Path
) -> None:
    """Of the metrics of three calls, two wait for the interval to pass."""
    with local_function(tmp_path, {**chain.environment, "KILN_FLUSH_MS": "20000"}) as function:
        function.freeze_after_each_answer()
        predict(function, 3)
        function.process.send_signal(signal.SIGTERM)
        function.process.send_signal(signal.SIGCONT)
        assert function.process.wait(60) == -signal.SIGTERM
        assert_exactly(chain, 3)
