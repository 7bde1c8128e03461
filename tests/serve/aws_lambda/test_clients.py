"""Lambda Managed Instances: several calls at once in one environment, by AWS's runtime client."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tests.helpers.waiting import wait_until
from tests.serve.aws_lambda.events import http_api, status_and_json
from tests.serve.aws_lambda.local_function import LocalFunction, local_function
from tests.serve.serving import base64_of, bundled_predictor, image_file, pixels
from tests.serve.telemetry.receiver import Receiver, attributes, receiving

CLIENTS = 16
CALLS = 4 * CLIENTS
# The main thread, those that wait for SIGTERM and count drift, one for each signal exported.
MOST_THREADS = 3 + 3
MOST_MB = 40  # that a client has for itself


@contextmanager
def environment(folder: Path, **variables: str) -> Iterator[LocalFunction]:
    given = {"AWS_LAMBDA_MAX_CONCURRENCY": str(CLIENTS), **variables}
    with local_function(folder, given) as function:
        try:
            yield function
        finally:
            for client in clients_of(function):
                with suppress(ProcessLookupError):
                    os.kill(client, signal.SIGKILL)


def exporting(receiver: Receiver) -> dict[str, str]:
    """Variables by which each call exports what it did, however busy the machine is."""
    return {
        "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url,
        "OTEL_METRIC_EXPORT_INTERVAL": "1",
        "KILN_FLUSH_MS": "20000",
    }


def clients_of(function: LocalFunction) -> list[int]:
    pid = function.process.pid
    with suppress(FileNotFoundError):
        return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def runs(pid: int) -> bool:
    with suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    return False


def number(pid: int, file: str, name: str) -> int:
    lines = Path(f"/proc/{pid}/{file}").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def names_of_threads(pid: int) -> list[str]:
    return [one.read_text().strip() for one in Path(f"/proc/{pid}/task").glob("*/comm")]


def ask(function: LocalFunction, index: int) -> Any:
    body = json.dumps({"image": base64_of(image_file(pixels(index))), "probabilities": True})
    trace = f"00-{index + 1:032x}-{index + 1:016x}-01"
    headers = {"content-type": "application/json", "traceparent": trace}
    return status_and_json(
        function.api.invoke(http_api("POST", "/predict", body.encode(), headers), 150)
    )


def counted(receiver: Receiver) -> dict[str, int]:
    """Requests of each instance, as its newest export has them."""
    found = {}
    for path, request in list(receiver.requests):
        for group in request.resource_metrics if path == "/v1/metrics" else ():
            instance = attributes(group.resource)["service.instance.id"]
            for scope in group.scope_metrics:
                for metric in scope.metrics:
                    if metric.name == "http.server.request.duration":
                        points = metric.histogram.data_points
                        found[instance] = sum(point.count for point in points)
    return found


def test_sixteen_clients_answer_their_own_calls_and_end_at_sigterm(tmp_path: Path) -> None:
    predictor = bundled_predictor()
    with (
        receiving() as receiver,
        environment(tmp_path, **exporting(receiver)) as function,
        ThreadPoolExecutor(CLIENTS) as callers,
    ):
        answers = list(callers.map(lambda index: ask(function, index), range(CALLS)))
        for index, (status, answer) in enumerate(answers):
            assert status == 200, answer
            assert answer["request_id"] == f"{index + 1:032x}"
            expected = predictor(pixels(index)[None])[0].tolist()
            assert list(answer["probabilities"].values()) == [round(one, 6) for one in expected]
        clients = clients_of(function)
        assert len(clients) == CLIENTS
        threads = [number(one, "status", "Threads") for one in clients]
        assert max(threads) <= MOST_THREADS, names_of_threads(clients[0])
        own = [number(one, "smaps_rollup", "Private_Dirty") / 1024 for one in clients]
        assert max(own) < MOST_MB, own
        function.process.send_signal(signal.SIGTERM)
        assert function.process.wait(60) in (0, -signal.SIGTERM)
        wait_until(lambda: not any(map(runs, clients)), "the clients to end")
        # Each told of its own calls, by an instance of its own.
        assert sum(counted(receiver).values()) == CALLS
        assert len(counted(receiver)) <= CLIENTS
        assert not function.api.init_errors
        traces = [span.trace_id.hex() for span in receiver.spans() if span.kind == 2]
        assert sorted(traces) == [f"{index + 1:032x}" for index in range(CALLS)]


def test_a_client_that_is_told_to_end_alone_ends(tmp_path: Path) -> None:
    with environment(tmp_path, AWS_LAMBDA_MAX_CONCURRENCY="2") as function:
        assert ask(function, 0)[0] == 200
        wait_until(lambda: len(clients_of(function)) == 2)
        first, second = clients_of(function)
        os.kill(first, signal.SIGTERM)
        wait_until(lambda: not runs(first), "the client to end")
        assert runs(second)
        assert function.process.poll() is None


def test_a_model_that_cannot_be_served_is_reported(tmp_path: Path) -> None:
    wrong = {"KILN_MODEL": "/etc/passwd", "AWS_LAMBDA_MAX_CONCURRENCY": "2"}
    with environment(tmp_path, **wrong) as function:
        wait_until(lambda: function.process.poll() is not None, "the environment to end")
        assert "/etc/passwd" in function.api.init_errors[0].report["errorMessage"]
