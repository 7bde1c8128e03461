"""Spans and log records over OTLP, and the HTTP transport to the collector.

The SDK's own transport imports requests and urllib3, a sixth of a start on AWS Lambda, where the
first call waits for its export; this one needs the standard library alone. TLS, proxies and
certificates are read from the variables that the SDK and requests read. A request's spans are built
after its response, named by OpenTelemetry's conventions for HTTP servers:
https://opentelemetry.io/docs/specs/semconv/http/http-spans/#http-server
"""

import logging
import os
import ssl
import threading
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, unquote, urlsplit

from opentelemetry.context import Context
from opentelemetry.exporter.http.transport._base import BaseHTTPResult, BaseHTTPTransport
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    set_span_in_context,
)
from opentelemetry.trace.span import TraceState

from serve.exchange import Exchange
from serve.telemetry.instruments import STAGES
from serve.telemetry.logs import facts_of
from serve.telemetry.recorder import Request
from serve.tls import client_context

if TYPE_CHECKING:
    from opentelemetry.sdk._logs import ReadableLogRecord

_PORTS = {"http": 80, "https": 443}


def certificate(signal: str, name: str) -> str | None:
    """The file named by OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE or the variable of all signals."""
    prefix = "OTEL_EXPORTER_OTLP_"
    return os.environ.get(f"{prefix}{signal}_{name}") or os.environ.get(prefix + name) or None


@dataclass(frozen=True, slots=True)
class Result(BaseHTTPResult):
    """The collector's response."""

    body: bytes = b""
    fields: Mapping[str, str] = field(default_factory=dict)

    def content(self) -> bytes:
        return self.body

    def headers(self) -> Mapping[str, str]:
        """Header fields, case-insensitive."""
        return self.fields


class Transport(BaseHTTPTransport):
    """A signal's persistent connection to the collector, reopened when it breaks."""

    def __init__(self, signal: str) -> None:
        self._authority = certificate(signal, "CERTIFICATE")
        self._certificate = certificate(signal, "CLIENT_CERTIFICATE")
        self._key = certificate(signal, "CLIENT_KEY")
        self._connection: HTTPConnection | None = None
        self._site = ""  # prefix of the path: proxies are sent absolute URLs
        self._fields: dict[str, str] = {}  # proxy authorization in each request
        self._in_use, self._is_closed = threading.Lock(), False

    def request(
        self,
        method: str,
        url: str,
        *,
        headers: dict[str, str] | None = None,
        timeout: float | None = None,
        data: bytes | None = None,
    ) -> Result:
        """The response, or an error; `timeout` applies to each operation."""
        with self._in_use:
            try:
                return self._ask(method, urlsplit(url), headers or {}, timeout, data)
            except (OSError, HTTPException) as exc:
                self._disconnect()
                return Result(error=exc)
            finally:
                if self._is_closed:
                    self._disconnect()

    def is_connection_error(self, exception: Exception | None) -> bool:
        """Whether a retry may succeed; not after certificate errors."""
        return isinstance(exception, (OSError, HTTPException)) and not isinstance(
            exception, ssl.SSLCertVerificationError
        )

    def close(self) -> None:
        """Closes the connection, or makes the request in progress close it at its end."""
        self._is_closed = True
        if self._in_use.acquire(blocking=False):
            try:
                self._disconnect()
            finally:
                self._in_use.release()

    def _ask(
        self,
        method: str,
        url: SplitResult,
        headers: Mapping[str, str],
        timeout: float | None,
        data: bytes | None,
    ) -> Result:
        if self._connection is None:
            self._connection = self._connect(url)
        connection = self._connection
        connection.timeout = timeout
        if connection.sock is not None:
            connection.sock.settimeout(timeout)
        path = f"{url.path or '/'}?{url.query}" if url.query else url.path or "/"
        connection.request(method, self._site + path, data, {**headers, **self._fields})
        response = connection.getresponse()
        fields: Any = response.headers  # an email message: `get` ignores case
        return Result(response.status, response.reason, None, response.read(), fields)

    def _connect(self, url: SplitResult) -> HTTPConnection:
        host, port = url.hostname or "", url.port or _PORTS[url.scheme]
        proxy = _proxy(url.scheme, host)
        if proxy is None:
            return self._open(url.scheme, host, port)
        near = self._open(url.scheme, proxy.hostname or "", proxy.port or _PORTS["http"])
        if url.scheme == "https":
            near.set_tunnel(host, port, _credentials(proxy))
        else:
            self._site = f"http://{url.netloc.rpartition('@')[2]}"
            self._fields = _credentials(proxy)
        return near

    def _open(self, scheme: str, host: str, port: int) -> HTTPConnection:
        if scheme == "http":
            return HTTPConnection(host, port)
        return HTTPSConnection(host, port, context=self._context())

    def _context(self) -> ssl.SSLContext:
        context = client_context(self._authority)
        if self._certificate:
            context.load_cert_chain(self._certificate, self._key)
        return context

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _proxy(scheme: str, host: str) -> SplitResult | None:
    """The proxy from HTTPS_PROXY, HTTP_PROXY or ALL_PROXY, unless NO_PROXY matches the host."""
    if not any(name.lower().endswith("_proxy") for name in os.environ):
        return None
    from urllib.request import getproxies, proxy_bypass

    proxies = getproxies()
    url = proxies.get(scheme) or proxies.get("all")
    if not url or proxy_bypass(host):
        return None
    return urlsplit(url if "://" in url else f"http://{url}")


def _credentials(proxy: SplitResult) -> dict[str, str]:
    if not proxy.username:
        return {}
    pair = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}".encode()
    return {"Proxy-Authorization": f"Basic {b64encode(pair).decode()}"}


_LONGEST = 256  # maximum length of a path
_SAMPLED = TraceFlags(TraceFlags.SAMPLED)


class SpanExport:
    """The SDK's exporter, imported here: few requests are traced."""

    def __init__(self) -> None:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        self._exporter = OTLPSpanExporter(_transport=Transport("TRACES"))
        self.shutdown = self._exporter.shutdown

    def export(self, spans: Sequence[ReadableSpan]) -> bool:
        """Whether the collector accepted them."""
        return self._exporter.export(spans).name == "SUCCESS"


class SpanBuilder:
    """Builds the SDK's finished spans directly: 3 µs each, where a tracer's start and end took
    39.
    """

    def __init__(self, resource: Resource, scope: InstrumentationScope) -> None:
        self._resource, self._scope = resource, scope

    def tree(
        self, exchange: Exchange, request: Request, path: str, start_ns: int, end_ns: int
    ) -> list[ReadableSpan]:
        """The server span, followed by the stages that the request reached.

        Args:
            start_ns, end_ns: of the whole request, since 1970.
        """
        trace, state = int(exchange.request_id, 16), _trace_state(exchange)
        parent = None
        if exchange.parent:
            parent = SpanContext(
                trace, int(exchange.parent, 16), True, TraceFlags(exchange.sampled), state
            )
        context = SpanContext(trace, new_id(), False, _SAMPLED, state)
        server = ReadableSpan(
            f"{request.method} {request.route}".rstrip(),
            context,
            parent,
            self._resource,
            {**_attributes(exchange, path), **request.labels()},
            kind=SpanKind.SERVER,
            status=Status(StatusCode.ERROR if request.status >= 500 else StatusCode.UNSET),
            start_time=start_ns,
            end_time=end_ns,
            instrumentation_scope=self._scope,
        )
        return [server, *self._stages(exchange, context, start_ns, end_ns)]

    def _stages(
        self, exchange: Exchange, parent: SpanContext, start_ns: int, end_ns: int
    ) -> Iterator[ReadableSpan]:
        for name, begin_s, finish_s in stages(exchange, (end_ns - start_ns) / 1e9):
            yield ReadableSpan(
                name,
                SpanContext(parent.trace_id, new_id(), False, _SAMPLED, parent.trace_state),
                parent,
                self._resource,
                {"kiln.batch.size": exchange.batch} if name == "infer" else {},
                start_time=min(end_ns, start_ns + round(begin_s * 1e9)),
                end_time=min(end_ns, start_ns + round(finish_s * 1e9)),
                instrumentation_scope=self._scope,
            )


def stages(exchange: Exchange, duration_s: float) -> Iterator[tuple[str, float, float]]:
    """(name, begin, end) of the request's stages, in seconds since its start.

    Stages are sequential within the request; the parts of a large batch run one after another, and
    the time in which later parts wait counts as part of the run.
    """
    encode = (
        min(exchange.encode_at - exchange.start, duration_s) if exchange.encode_at else duration_s
    )
    begin = min(exchange.decode_at - exchange.start, encode)
    reached = 3 if exchange.batch else 1 if exchange.decode_s else 0
    for name, seconds in zip(
        STAGES[:reached], (exchange.decode_s, exchange.queue_s, exchange.infer_s), strict=False
    ):
        end = min(begin + seconds, encode)
        yield name, begin, end
        begin = end
    if exchange.encode_at:
        yield STAGES[3], encode, min(encode + exchange.encode_s, duration_s)


def new_id() -> int:
    """A span id from the kernel, so that copies of a process do not share them."""
    return int.from_bytes(os.urandom(8), "big") or 1


def _attributes(exchange: Exchange, path: str) -> dict[str, str | int]:
    found: dict[str, str | int] = {"url.path": path[:_LONGEST], "url.scheme": exchange.scheme}
    if exchange.images is not None:
        found["kiln.images"] = len(exchange.images)
    return found


def _trace_state(exchange: Exchange) -> TraceState | None:
    """The caller's tracestate, passed on unchanged."""
    if not exchange.tracestate:
        return None
    return TraceState.from_header([exchange.tracestate.decode("latin-1")])


_SEVERITIES = {  # OpenTelemetry's names
    logging.DEBUG: "DEBUG",
    logging.INFO: "INFO",
    logging.WARNING: "WARN",
    logging.ERROR: "ERROR",
    logging.CRITICAL: "FATAL",
}


class LogExport:
    """Converts Python's log records to OpenTelemetry's and exports them.

    The SDK's parts are imported here: a start on AWS Lambda rarely has any records.
    """

    def __init__(self, resource: Resource, scope: InstrumentationScope) -> None:
        from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter

        self._resource, self._scope = resource, scope
        self._exporter = OTLPLogExporter(_transport=Transport("LOGS"))
        self.shutdown = self._exporter.shutdown

    def export(self, records: Sequence[logging.LogRecord]) -> bool:
        """Whether the collector accepted them."""
        converted = [self.convert(record) for record in records]
        return self._exporter.export(converted).name == "SUCCESS"

    def convert(self, record: logging.LogRecord) -> "ReadableLogRecord":
        """The record, with its trace if it names one."""
        from opentelemetry._logs import LogRecord, SeverityNumber
        from opentelemetry.sdk._logs import ReadableLogRecord

        facts = facts_of(record)
        converted = LogRecord(
            timestamp=int(record.created * 1e9),
            observed_timestamp=int(record.created * 1e9),
            context=_context(facts.get("trace_id")),
            severity_text=record.levelname,
            severity_number=SeverityNumber[_SEVERITIES.get(record.levelno, "UNSPECIFIED")],
            body=facts.pop("message"),
            attributes={name: _plain(value) for name, value in facts.items()},
        )
        return ReadableLogRecord(converted, self._resource, self._scope)


def _plain(value: object) -> str | bool | int | float:
    return value if isinstance(value, (str, bool, int, float)) else str(value)


def _context(trace_id: object) -> Context:
    if not isinstance(trace_id, str):
        return Context()
    # The span id is not known here, and an invalid one would drop the trace id.
    span = SpanContext(int(trace_id, 16), 0, False, TraceFlags(0))
    return set_span_in_context(NonRecordingSpan(span), Context())
