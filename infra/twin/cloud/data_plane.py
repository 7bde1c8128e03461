"""Lambda's data plane: invokes versions in their environments and reports as Lambda does.

Its HTTP API stands in front of moto's server, which would start Docker containers for invocations.
"""

from __future__ import annotations

import base64
import json
import random
import re
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, unquote

from infra.twin.cloud.fleet import Environment, Fleet, Line, Throttled
from infra.twin.cloud.metrics import LogWriter, MetricWriter
from infra.twin.cloud.runtime_api import FunctionError, Invocation
from infra.twin.cloud.targets import Target, UnknownFunction, find_target

MAX_EVENT_BYTES = 6 * 1024 * 1024
MAX_ASYNCHRONOUS_BYTES = 1024 * 1024
RETRY_AFTER_S = (60.0, 120.0)  # an asynchronous invocation that failed
_TAIL_BYTES = 4096
_ASYNCHRONOUS_AT_A_TIME = 8


class TooLarge(Exception):
    """The event exceeds Lambda's size limit."""


@dataclass(frozen=True)
class Outcome:
    """The result of a synchronous invocation."""

    request_id: str
    version: str
    payload: bytes
    failed: bool  # whether the payload describes a function error
    log_tail: bytes
    duration_ms: float


@dataclass(frozen=True)
class Seen:
    """A finished invocation, for observers."""

    time_s: float  # end time, seconds since 1970
    target: Target
    duration_ms: float
    init_ms: float | None
    error: str | None  # error type


Observe = Callable[[Seen], object]


def ignore(seen: Seen) -> None:
    """Ignores the invocation."""


class DataPlane:
    """Invocations of all functions in all regions."""

    def __init__(
        self,
        fleet: Fleet,
        logs: LogWriter,
        metrics: MetricWriter,
        seed: int | None = None,
        retry_after_s: Sequence[float] = RETRY_AFTER_S,
        observe: Observe = ignore,
    ) -> None:
        """`seed` determines which version of an alias receives each call."""
        self._observe = observe
        self._fleet, self._logs, self._metrics = fleet, logs, metrics
        self._chance = random.Random(seed)
        self._retry_after_s = retry_after_s
        self._closing = threading.Event()
        self._asynchronous = ThreadPoolExecutor(_ASYNCHRONOUS_AT_A_TIME, "asynchronous")

    def invoke(
        self,
        region: str,
        name: str,
        qualifier: str | None,
        event: bytes,
        trace_id: str | None = None,
    ) -> Outcome:
        """Invokes a function and returns its response.

        Raises:
            UnknownFunction, Throttled, TooLarge: nothing was started.
        """
        if len(event) > MAX_EVENT_BYTES:
            raise TooLarge(f"Request must be smaller than {MAX_EVENT_BYTES} bytes")
        target = find_target(region, name, qualifier, self._chance)
        return self._invoke(target, event, trace_id or new_trace_id())

    def invoke_later(self, region: str, name: str, qualifier: str | None, event: bytes) -> str:
        """Queues an asynchronous call; its request id.

        Raises:
            UnknownFunction, TooLarge: it is not queued.
        """
        if len(event) > MAX_ASYNCHRONOUS_BYTES:
            raise TooLarge(f"Request must be smaller than {MAX_ASYNCHRONOUS_BYTES} bytes")
        target = find_target(region, name, qualifier, self._chance)
        request_id = Invocation(b"", 0).request_id
        self._asynchronous.submit(self._run_with_retries, target, event, request_id)
        return request_id

    def close(self) -> None:
        """Waits for calls in progress, and drops queued ones."""
        self._closing.set()
        self._asynchronous.shutdown(cancel_futures=True)

    def _run_with_retries(self, target: Target, event: bytes, request_id: str) -> None:
        for attempt in range(target.retries + 1):
            try:
                if not self._invoke(target, event, new_trace_id(), request_id).failed:
                    return
            except Throttled:
                pass
            pause_s = self._retry_after_s[min(attempt, len(self._retry_after_s) - 1)]
            if attempt < target.retries and self._closing.wait(pause_s):
                return

    def _invoke(
        self, target: Target, event: bytes, trace_id: str, request_id: str | None = None
    ) -> Outcome:
        try:
            environment = self._fleet.acquire(target)
        except Throttled:
            self._metrics.throttled(target)
            raise
        call = Invocation(event, 0.0, function_arn=target.arn, trace_id=trace_id)
        call.request_id = request_id or call.request_id
        error: FunctionError | None = None
        init_ms: float | None = None
        payload = b""
        begun = time.monotonic()
        try:
            sandbox = environment.sandbox
            if sandbox.init_s is None:
                sandbox.wait_until_started(target.timeout_s)
                init_ms = (sandbox.init_s or 0.0) * 1e3
                begun = time.monotonic()
            call.deadline_s = time.time() + target.timeout_s
            payload = sandbox.run(call, target.timeout_s)
        except FunctionError as raised:
            error = raised
        duration_ms = (time.monotonic() - begun) * 1e3
        concurrent = self._fleet.busy(target.name)
        lines = self._report(environment, target, call, duration_ms, init_ms, error)
        usable = environment.sandbox.alive and environment.sandbox.init_s is not None
        self._fleet.release(environment, target, usable)
        self._metrics.invoked(target, duration_ms, error is not None, concurrent)
        kind = error.kind if error else None
        self._observe(Seen(time.time(), target, duration_ms, init_ms, kind))
        if error:
            payload = json.dumps(_described(error, call.request_id)).encode()
        tail = "".join(f"{line.text}\n" for line in lines).encode()[-_TAIL_BYTES:]
        return Outcome(
            call.request_id, target.version, payload, error is not None, tail, duration_ms
        )

    def _report(
        self,
        environment: Environment,
        target: Target,
        call: Invocation,
        duration_ms: float,
        init_ms: float | None,
        error: FunctionError | None,
    ) -> list[Line]:
        """Writes and returns the log of one call."""
        written = environment.sandbox.take_lines()
        now = int(time.time() * 1000)
        start = written[0].time_ms if written else now
        lines = [Line(start, f"START RequestId: {call.request_id} Version: {target.version}")]
        lines += written
        if error and error.kind.startswith(("Sandbox.", "Runtime.Exit")):
            text = _described(error, call.request_id)["errorMessage"]
            lines.append(Line(now, str(text).replace("Error: ", "", 1)))
        lines.append(Line(now, f"END RequestId: {call.request_id}"))
        billed = -(-(duration_ms + (init_ms or 0)) // 1)
        report = [
            f"REPORT RequestId: {call.request_id}",
            f"Duration: {duration_ms:.2f} ms",
            f"Billed Duration: {billed:.0f} ms",
            f"Memory Size: {target.memory_mb} MB",
            f"Max Memory Used: {environment.sandbox.memory_mb()} MB",
        ]
        if init_ms is not None:
            report.append(f"Init Duration: {init_ms:.2f} ms")
        lines.append(Line(now, "\t".join(report) + "\t"))
        self._logs.write(target.region, environment.log_group, environment.log_stream, lines)
        self._metrics.read_embedded(target.region, written)
        return lines


def new_trace_id() -> str:
    root = f"1-{int(time.time()):08x}-{secrets.token_hex(12)}"
    return f"Root={root};Parent={secrets.token_hex(8)};Sampled=0"


def _described(error: FunctionError, request_id: str) -> dict[str, object]:
    """The payload of a failed call."""
    if error.report.get("errorType"):
        return error.report
    message = f"RequestId: {request_id} Error: {error.report['errorMessage']}"
    return {"errorType": error.kind, "errorMessage": message}


Environ = Mapping[str, Any]
Application = Callable[[Any, Any], Iterable[bytes]]
_INVOCATION = re.compile(r"/2015-03-31/functions/(?P<name>[^/]+)/invocations/?")
_SCOPE = re.compile(r"Credential=[^/]+/\d+/(?P<region>[^/]+)/(?P<service>[^/]+)/")
# Services whose store the data plane writes into, which moto reads without a lock; and S3, which
# looks whether an object is there and writes it in one step, where moto takes two.
_SHARED = ("logs", "monitoring", "s3")


class _Refusal(Exception):
    def __init__(self, status: str, kind: str, document: Mapping[str, str]) -> None:
        super().__init__(kind)
        self.status, self.kind, self.document = status, kind, document


class LambdaApi:
    """A WSGI application: invocations go to the data plane, everything else to moto."""

    data_plane: DataPlane  # set before the first call: functions need this server's address

    def __init__(self, moto: Application, region: str, store: threading.RLock) -> None:
        self._moto, self._region, self._store = moto, region, store

    def __call__(self, environ: Environ, start_response: Any) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        match = _INVOCATION.fullmatch(path)
        scope = _SCOPE.search(environ.get("HTTP_AUTHORIZATION", ""))
        if match and environ["REQUEST_METHOD"] == "POST":
            region = scope["region"] if scope else self._region
            return self._invoke(environ, start_response, region, unquote(match["name"]))
        if scope and scope["service"] in _SHARED:
            with self._store:
                return self._moto(environ, start_response)
        return self._moto(environ, start_response)

    def _invoke(
        self, environ: Environ, start_response: Any, region: str, name: str
    ) -> Iterable[bytes]:
        event = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        query = parse_qs(environ.get("QUERY_STRING", ""))
        qualifier = query.get("Qualifier", [None])[0]
        kind = environ.get("HTTP_X_AMZ_INVOCATION_TYPE", "RequestResponse")
        try:
            status, headers, body = self._answer(environ, region, name, qualifier, event, kind)
        except _Refusal as refusal:
            status, body = refusal.status, json.dumps(refusal.document).encode()
            headers = {"x-amzn-ErrorType": refusal.kind}
        headers |= {"Content-Type": "application/json", "Content-Length": str(len(body))}
        start_response(status, list(headers.items()))
        return [body]

    def _answer(
        self,
        environ: Environ,
        region: str,
        name: str,
        qualifier: str | None,
        event: bytes,
        kind: str,
    ) -> tuple[str, dict[str, str], bytes]:
        try:
            json.loads(event or b"{}")
        except ValueError as error:
            message = {
                "Type": "User",
                "message": f"Could not parse request body into json: {error}",
            }
            raise _Refusal("400 Bad Request", "InvalidRequestContentException", message) from error
        try:
            if kind == "Event":
                request_id = self.data_plane.invoke_later(region, name, qualifier, event)
                return "202 Accepted", {"x-amzn-RequestId": request_id}, b""
            trace_id = environ.get("HTTP_X_AMZN_TRACE_ID")
            outcome = self.data_plane.invoke(region, name, qualifier, event, trace_id)
        except UnknownFunction as error:
            message = {"Type": "User", "Message": f"Function not found: {error}"}
            raise _Refusal("404 Not Found", "ResourceNotFoundException", message) from error
        except Throttled as error:
            message = {"Type": "User", "Reason": error.reason, "message": "Rate Exceeded."}
            raise _Refusal("429 Too Many", "TooManyRequestsException", message) from error
        except TooLarge as error:
            message = {"Type": "User", "message": str(error)}
            raise _Refusal("413 Too Large", "RequestTooLargeException", message) from error
        headers = {
            "X-Amz-Executed-Version": outcome.version,
            "x-amzn-RequestId": outcome.request_id,
        }
        if outcome.failed:
            headers["X-Amz-Function-Error"] = "Unhandled"
        if environ.get("HTTP_X_AMZ_LOG_TYPE") == "Tail":
            headers["X-Amz-Log-Result"] = base64.b64encode(outcome.log_tail).decode()
        return "200 OK", headers, outcome.payload
