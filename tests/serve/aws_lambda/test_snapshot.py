"""SnapStart: what a copy of the snapshot tells, by the hooks that AWS's runtime client calls."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

from serve.aws_lambda.lifecycle import renew, warm
from tests.helpers.waiting import wait_until
from tests.serve.aws_lambda.embedded_metric_format import samples
from tests.serve.aws_lambda.local_function import LocalFunction, local_function
from tests.serve.serving import base64_of, image_file, pixels
from tests.serve.telemetry.collector import collector

SNAP_START = {"AWS_LAMBDA_INITIALIZATION_TYPE": "snap-start"}
BODY = json.dumps({"image": base64_of(image_file(pixels()))}).encode()
COUNT = "sum(http_server_request_duration_seconds_count)"


def restore(function: LocalFunction) -> None:
    """The snapshot is taken, and some time later a copy begins."""
    assert function.api.snapshot_ready.wait(120), function.api.init_errors
    function.process.send_signal(signal.SIGSTOP)
    time.sleep(0.05)
    function.process.send_signal(signal.SIGCONT)
    function.api.restore()
    function.freeze_after_each_answer()


def predict(function: LocalFunction, times: int) -> None:
    for _ in range(times):
        assert function.ask("POST", "/predict", BODY)[0] == 200


def test_a_copy_tells_of_its_own_requests_and_not_of_the_warm_up(tmp_path: Path) -> None:
    with collector(tmp_path / "chain") as chain:
        each_call = {"KILN_FLUSH_MS": "20000", "OTEL_METRIC_EXPORT_INTERVAL": "1"}
        environment = {**chain.environment, **SNAP_START, **each_call}
        with local_function(tmp_path, environment) as function:
            restore(function)
            predict(function, 3)
            assert not function.api.restore_errors
        wait_until(lambda: chain.value(COUNT) == 3, "three requests to be counted")
        wait_until(lambda: len(chain.spans) >= 15, "their spans")
        assert len({span.trace_id for span in chain.spans}) == 3
        assert len({span.resource["service.instance.id"] for span in chain.spans}) == 1
        assert chain.value("sum(kiln_cold_starts_total)") == 1


def test_a_copy_without_a_collector_logs_its_own_requests_alone(tmp_path: Path) -> None:
    with local_function(tmp_path, SNAP_START) as function:
        restore(function)
        predict(function, 2)
        lines = function.log.read_text().splitlines()
    found = [s for line in lines if line.startswith('{"_aws"') for s in samples(json.loads(line))]
    assert sum(s.value for s in found if s.name == "kiln.predictions") == 2


def copies(after_restore: Callable[[], None]) -> list[str]:
    """What two copies draw first; unlike a fork, a snapshot renews nothing by itself."""
    drawn, state = [], random.getstate()
    for _ in range(2):
        reading, writing = os.pipe()
        if os.fork() == 0:
            random.setstate(state)
            after_restore()
            os.write(writing, str(random.getrandbits(64)).encode())
            os._exit(0)
        os.close(writing)
        with os.fdopen(reading) as file:
            drawn.append(file.read())
        os.wait()
    return drawn


def test_copies_draw_the_same_numbers_unless_they_are_renewed() -> None:
    one, two = copies(lambda: None)
    assert one == two
    one, two = copies(renew)
    assert one != two


def test_warming_takes_the_whole_path_of_a_prediction() -> None:
    warm()
