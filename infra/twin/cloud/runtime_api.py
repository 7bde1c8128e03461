"""Lambda's Runtime API: hands events to a function's process and takes its responses.

https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html; the calls around a snapshot follow
Python's runtime client, which waits in restore/next between the two.
"""

from __future__ import annotations

import json
import queue
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from common.programs import serving

Json = dict[str, Any]
_VERSION = "/2018-06-01/runtime"
# Of synchronous invocations, with some room for JSON.
MAX_ANSWER_BYTES = 6 * 1024 * 1024 + 512 * 1024

FUNCTION_ARN = "arn:aws:lambda:eu-central-1:123456789012:function:kiln"
TRACE = "Root=1-5bef4de7-ad49b0e87f6ef6c87fc2e700;Parent=9a9197af755a6419;Sampled=1"


class TimedOut(Exception):
    """The function missed its deadline; Lambda would kill its process."""


class FunctionError(Exception):
    """The function reported an error instead of a result."""

    def __init__(self, report: Json, kind: str = "") -> None:
        self.kind, self.report = kind or report.get("errorType", ""), report
        super().__init__(f"{self.kind}: {report.get('errorMessage')}")


@dataclass
class Invocation:
    """An event on its way to the function and back; `answered` is set on return."""

    event: bytes
    deadline_s: float  # seconds since 1970
    request_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    function_arn: str = FUNCTION_ARN  # with the caller's qualifier
    trace_id: str = TRACE
    answered: threading.Event = field(default_factory=threading.Event)
    answer: bytes = b""
    error: FunctionError | None = None

    def head(self) -> dict[str, str]:
        return {
            "Lambda-Runtime-Aws-Request-Id": self.request_id,
            "Lambda-Runtime-Deadline-Ms": str(int(self.deadline_s * 1000)),
            "Lambda-Runtime-Invoked-Function-Arn": self.function_arn,
            "Lambda-Runtime-Trace-Id": self.trace_id,
        }


class RuntimeApi:
    """The Runtime API of one function process."""

    def __init__(self) -> None:
        self.init_errors: list[FunctionError] = []
        self.restore_errors: list[FunctionError] = []
        self.waits = threading.Event()  # the function requested its first event: it is initialised
        self.snapshot_ready = threading.Event()
        # Called when a response arrives, before anyone is notified, including the function.
        self.on_answer: Callable[[], None] = lambda: None
        # Called when the function requests its first event, or fails to start.
        self.on_started: Callable[[], None] = lambda: None
        self._restored = threading.Event()
        self._calls: queue.Queue[Invocation | None] = queue.Queue()
        self._open: dict[str, Invocation] = {}
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.api = self

    @property
    def address(self) -> str:
        """The value of AWS_LAMBDA_RUNTIME_API."""
        return f"127.0.0.1:{self._server.server_port}"

    def hand(self, call: Invocation) -> None:
        """Queues an event for the function; `call.answered` is set when it is done."""
        self._calls.put(call)

    def abandon(self, call: Invocation) -> None:
        """A response to it will be rejected from now on."""
        self._open.pop(call.request_id, None)

    def invoke(self, event: Json, timeout_s: float = 60.0) -> Any:
        """The function's result for one event.

        Raises:
            FunctionError: it reported an error.
            TimedOut: it missed its deadline.
        """
        call = Invocation(json.dumps(event).encode(), time.time() + timeout_s)
        self.hand(call)
        if not call.answered.wait(timeout_s):
            self.abandon(call)
            raise TimedOut(f"no answer within {timeout_s} s")
        if call.error:
            raise call.error
        return json.loads(call.answer)

    def restore(self) -> None:
        """Signals that a copy of the snapshot starts."""
        self._restored.set()

    # ---- Called by the handler ----

    def next_call(self) -> Invocation | None:
        if not self.waits.is_set():
            self.waits.set()
            self.on_started()
        call = self._calls.get()
        if call is None:
            self._calls.put(None)  # so that other waiters see it, too
        else:
            self._open[call.request_id] = call
        return call

    def wait_for_restore(self) -> None:
        self.snapshot_ready.set()
        while not self._server.closing and not self._restored.wait(0.1):
            pass

    def finish(self, request_id: str, answer: bytes, error: FunctionError | None = None) -> bool:
        call = self._open.pop(request_id, None)
        if call is None:
            return False
        call.answer, call.error = answer, error
        self.on_answer()
        call.answered.set()
        return True

    def fail_to_start(self, error: FunctionError) -> None:
        self.init_errors.append(error)
        self.on_started()

    def close(self) -> None:
        """Releases whoever waits for an event."""
        self._server.closing = True
        self._calls.put(None)


class QuietServer(ThreadingHTTPServer):
    """A server that waits for no connection and logs none that breaks, as a killed function's."""

    block_on_close = False

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignores it."""


class QuietHandler(BaseHTTPRequestHandler):
    """Keeps connections alive, and writes no access log."""

    protocol_version = "HTTP/1.1"
    # Head and body in one packet: with two, each response would wait for an acknowledgement.
    wbufsize = -1
    disable_nagle_algorithm = True

    def log_message(self, *arguments: object) -> None:
        """Suppresses the access log."""


class _Server(QuietServer):
    api: RuntimeApi
    closing = False


class _Handler(QuietHandler):
    server: _Server

    def do_GET(self) -> None:
        if self.path == f"{_VERSION}/invocation/next":
            call = self.server.api.next_call()
            if call:
                self._send(200, call.event, call.head())
            else:
                self.close_connection = True
        elif self.path == f"{_VERSION}/restore/next":
            self.server.api.wait_for_restore()
            self._send(200, b"")
        else:
            self._refuse(404, "NotFound", self.path)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        api, kind = self.server.api, self.headers.get("Lambda-Runtime-Function-Error-Type", "")
        match self.path.removeprefix(_VERSION).strip("/").split("/"):
            case ["invocation", request_id, "response"]:
                self._answer(request_id, body)
            case ["invocation", request_id, "error"]:
                self._accept(api.finish(request_id, b"", FunctionError(json.loads(body), kind)))
            case ["init", "error"]:
                api.fail_to_start(FunctionError(json.loads(body), kind))
                self._accept(True)
            case ["restore", "error"]:
                api.restore_errors.append(FunctionError(json.loads(body), kind))
                self._accept(True)
            case _:
                self._refuse(404, "NotFound", self.path)

    def _answer(self, request_id: str, body: bytes) -> None:
        if len(body) > MAX_ANSWER_BYTES:
            message = f"Exceeded maximum allowed payload size ({MAX_ANSWER_BYTES} bytes)."
            error = FunctionError(
                {"errorMessage": message, "errorType": "Function.ResponseSizeTooLarge"},
                "Function.ResponseSizeTooLarge",
            )
            self.server.api.finish(request_id, b"", error)
            self._refuse(413, "RequestEntityTooLarge", message)
        else:
            self._accept(self.server.api.finish(request_id, body))

    def _accept(self, known: bool) -> None:
        if known:
            self._send(202, b'{"status":"OK"}')
        else:
            self._refuse(400, "InvalidRequestID", "Invalid request ID")

    def _refuse(self, status: int, kind: str, message: str) -> None:
        self._send(status, json.dumps({"errorMessage": message, "errorType": kind}).encode())

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def runtime_api() -> Iterator[RuntimeApi]:
    """A server that listens during the block."""
    api = RuntimeApi()
    with serving(api._server):
        try:
            yield api
        finally:
            api.close()
