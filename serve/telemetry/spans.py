"""Builds a request's spans after its response, and exports them over OTLP.

Names are those of OpenTelemetry's conventions for HTTP servers:
https://opentelemetry.io/docs/specs/semconv/http/http-spans/#http-server
"""

import os
from collections.abc import Iterator, Sequence

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags
from opentelemetry.trace.span import TraceState

from serve.exchange import Exchange
from serve.telemetry.instruments import STAGES
from serve.telemetry.recorder import Request
from serve.telemetry.transport import Transport

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
