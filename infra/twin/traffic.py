"""Observed traffic of the twin: responses, invocations, and the alias over time."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import ThreadingHTTPServer
from typing import Any

from common.programs import serving
from infra.twin.cloud.data_plane import Seen
from infra.twin.cloud.runtime_api import QuietHandler
from infra.twin.cloud.schedules import regularly
from infra.twin.load import TimedResponse

_POLL_S = 0.25


@dataclass(frozen=True)
class Routing:
    """An alias's routing from a time on."""

    time_s: float
    weights: Mapping[str, float]  # by version, sum 1


@dataclass(frozen=True)
class Alert:
    """A message of the topic as its subscriber received it."""

    time_s: float
    subject: str
    message: str


@dataclass
class Traffic:
    """Everything observed so far. Lists only grow, and each has one writer."""

    responses: list[TimedResponse] = field(default_factory=list)
    calls: list[Seen] = field(default_factory=list)
    routings: list[Routing] = field(default_factory=list)
    alerts: list[Alert] = field(default_factory=list)

    def saw(self, seen: Seen) -> None:
        """Records a call through the alias."""
        if seen.target.qualifier != seen.target.version:
            self.calls.append(seen)

    def first_call(self, version: str, since_s: float = 0.0) -> float | None:
        """When the version first responded to a caller."""
        times = (
            call.time_s - call.duration_ms / 1e3
            for call in list(self.calls)
            if call.target.version == version and call.time_s >= since_s
        )
        return min(times, default=None)

    def so_far(self) -> Traffic:
        """A snapshot of the traffic so far."""
        return Traffic(
            list(self.responses), list(self.calls), list(self.routings), list(self.alerts)
        )

    def left(self, version: str, since_s: float) -> float | None:
        """When the alias stopped routing to the version."""
        there = False
        for routing in list(self.routings):
            if routing.time_s < since_s:
                continue
            if routing.weights.get(version):
                there = True
            elif there:
                return routing.time_s
        return None


@contextmanager
def callers(
    command: Sequence[str], environment: Mapping[str, str], traffic: Traffic
) -> Iterator[subprocess.Popen[str]]:
    """The program load.py, for the duration of the block."""
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=dict(environment), text=True
    ) as process:
        assert process.stdin
        assert process.stdout
        lines = process.stdout

        def read() -> None:
            for line in lines:
                traffic.responses.append(TimedResponse(**json.loads(line)))

        reader = threading.Thread(target=read)
        reader.start()
        try:
            yield process
        finally:
            process.stdin.close()
            reader.join()


@contextmanager
def watched_alias(client: Any, function: str, alias: str, traffic: Traffic) -> Iterator[None]:
    """Records each change of the alias, at most a quarter of a second late."""

    def look() -> None:
        try:
            found = client.get_alias(FunctionName=function, Name=alias)
        except client.exceptions.ResourceNotFoundException:
            return  # destroyed manually with --keep
        weights = dict((found.get("RoutingConfig") or {}).get("AdditionalVersionWeights") or {})
        weights[found["FunctionVersion"]] = 1 - sum(weights.values())
        if not traffic.routings or traffic.routings[-1].weights != weights:
            traffic.routings.append(Routing(time.time(), weights))

    with regularly(look, _POLL_S):
        yield


@contextmanager
def subscriber(traffic: Traffic) -> Iterator[str]:
    """The URL of a topic subscriber that records messages."""

    class Handler(QuietHandler):
        def do_POST(self) -> None:
            document = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            subject, message = str(document.get("Subject")), str(document.get("Message"))
            traffic.alerts.append(Alert(time.time(), subject, message))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

    with serving(ThreadingHTTPServer(("127.0.0.1", 0), Handler)) as url:
        yield url
