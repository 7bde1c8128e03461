"""A collector of OTLP over HTTP on this machine, which keeps what it gets, or misbehaves."""

import gzip
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from typing import Any

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from common.programs import serving

PATIENCE_S = 30
_KINDS: dict[str, Any] = {
    "/v1/logs": ExportLogsServiceRequest,
    "/v1/metrics": ExportMetricsServiceRequest,
    "/v1/traces": ExportTraceServiceRequest,
}


class Receiver:
    """What arrived, decoded; status 0 never answers."""

    def __init__(self, status: int = 200) -> None:
        self.status = status
        self.refusals = 0  # that come first: try again at once
        self.requests: list[tuple[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.by_connection: list[tuple[int, Any]] = []  # requests, and by which they came
        self.released = threading.Event()  # ends what never answers
        self.url = ""

    def spans(self) -> list[Any]:
        return [
            span
            for path, request in self.requests
            if path == "/v1/traces"
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    def logs(self) -> list[Any]:
        return [
            record
            for path, request in self.requests
            if path == "/v1/logs"
            for resource in request.resource_logs
            for scope in resource.scope_logs
            for record in scope.log_records
        ]

    def metrics(self) -> dict[str, Any]:
        """The newest of each name."""
        return {
            metric.name: metric
            for path, request in self.requests
            if path == "/v1/metrics"
            for resource in request.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }

    def resources(self) -> list[dict[str, Any]]:
        found = []
        for path, request in self.requests:
            groups = getattr(
                request, f"resource_{path.rsplit('/', 1)[1]}".replace("traces", "spans")
            )
            found += [attributes(group.resource) for group in groups]
        return found


@contextmanager
def receiving(status: int = 200, context: ssl.SSLContext | None = None) -> Iterator[Receiver]:
    receiver = Receiver(status)

    numbers = count()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            super().setup()
            self.connection_number = next(numbers)

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if not receiver.status:
                receiver.released.wait(PATIENCE_S)
                self.close_connection = True  # or the exporter would wait for its own timeout
                return
            if receiver.refusals:
                receiver.refusals -= 1
                self.send_response(503)
                self.send_header("retry-after", "0")
                self.send_header("content-length", "0")
                self.end_headers()
                return
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            if receiver.status == 200:
                receiver.headers.append({k.lower(): v for k, v in self.headers.items()})
                request = _KINDS[self.path].FromString(body)
                receiver.by_connection.append((self.connection_number, request))
                receiver.requests.append((self.path, request))
            self.send_response(receiver.status)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    class Server(ThreadingHTTPServer):
        def handle_error(self, request: object, client_address: object) -> None:
            """A caller may refuse our certificate."""

    server = Server(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    receiver.url = f"http{'s' if context else ''}://127.0.0.1:{server.server_address[1]}"
    with serving(server):
        try:
            yield receiver
        finally:
            receiver.released.set()


def attributes(owner: Any) -> dict[str, Any]:
    """Of a span, a point, a record or a resource."""
    return {
        pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in owner.attributes
    }


def points(metric: Any) -> list[tuple[dict[str, Any], Any]]:
    """Labels and value or histogram of each series."""
    kind = metric.WhichOneof("data")
    return [
        (
            attributes(point),
            point if kind == "histogram" else getattr(point, point.WhichOneof("value")),
        )
        for point in getattr(metric, kind).data_points
    ]
