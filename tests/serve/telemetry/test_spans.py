"""serve/telemetry/otlp.py: any exchange becomes a valid tree of spans."""

import re

from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanKind, StatusCode

from serve.exchange import Exchange
from serve.telemetry.otlp import SpanBuilder
from serve.telemetry.recorder import Request

PARENT = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
START_NS = 1_700_000_000_000_000_000
BUILDER = SpanBuilder(Resource.create({}), InstrumentationScope("test"))

seconds = st.floats(0, 30)


@st.composite
def exchanges(draw: st.DrawFn) -> tuple[Exchange, float]:
    """Any request, also one whose times contradict each other, and its duration."""
    exchange = Exchange(draw(st.sampled_from([None, PARENT, b"garbage"])))
    duration = draw(seconds)
    exchange.status = draw(st.sampled_from([0, 200, 404, 422, 500, 503]))
    exchange.decode_at = exchange.start + draw(seconds)
    if draw(st.booleans()):
        exchange.decode_s = draw(seconds)
    if draw(st.booleans()):
        exchange.queue_s, exchange.infer_s = draw(seconds), draw(seconds)
        exchange.batch = draw(st.integers(0, 100))
    if draw(st.booleans()):
        exchange.encode_at, exchange.encode_s = exchange.start + draw(seconds), draw(seconds)
    return exchange, duration


def tree(exchange: Exchange, duration: float, path: str = "/predict") -> list[ReadableSpan]:
    request = Request("POST", "/predict", exchange.status, exchange.error)
    return BUILDER.tree(exchange, request, path, START_NS, START_NS + round(duration * 1e9))


@given(exchanges())
def test_any_call_becomes_a_valid_tree(drawn: tuple[Exchange, float]) -> None:
    server, *children = tree(*drawn)
    assert server.context
    assert server.start_time is not None
    assert server.end_time is not None
    assert f"{server.context.trace_id:032x}" == drawn[0].request_id
    ids = {span.context.span_id for span in (server, *children) if span.context}
    assert len(ids) == 1 + len(children)
    assert 0 not in ids
    names = [child.name for child in children]
    assert names == sorted(names, key=["decode", "queue", "infer", "encode"].index)
    for child in children:
        assert child.parent == server.context
        assert child.start_time is not None
        assert child.end_time is not None
        assert server.start_time <= child.start_time <= child.end_time <= server.end_time


@given(st.binary(max_size=70))
def test_any_traceparent_gives_valid_ids(header: bytes) -> None:
    exchange = Exchange(header)
    server = tree(exchange, 0.1)[0]
    assert server.context is not None
    assert server.context.is_valid
    assert (server.parent is None) == (exchange.parent is None)


@given(st.binary(max_size=100))
def test_any_tracestate_is_taken_or_left(header: bytes) -> None:
    exchange = Exchange(PARENT)
    exchange.tracestate = header
    assert tree(exchange, 0.1)[0].context


def test_a_caller_s_trace_goes_on() -> None:
    exchange = Exchange(PARENT)
    exchange.tracestate = b"vendor=opaque,other=1"
    server = tree(exchange, 0.1)[0]
    assert server.parent
    assert server.parent.span_id == 0xB7AD6B7169203331
    assert server.parent.is_remote
    assert server.context
    assert server.context.trace_state.to_header() == "vendor=opaque,other=1"


def test_names_are_those_of_the_conventions() -> None:
    exchange = Exchange(None, "https")
    exchange.status, exchange.error = 500, "internal-error"
    server = tree(exchange, 0.1, "/prod/predict" + "x" * 1000)[0]
    assert (server.name, server.kind) == ("POST /predict", SpanKind.SERVER)
    assert server.status.status_code is StatusCode.ERROR
    assert server.attributes is not None
    assert re.fullmatch("/prod/predictx{243}", str(server.attributes["url.path"]))
    assert {name: server.attributes[name] for name in server.attributes if name != "url.path"} == {
        "url.scheme": "https",
        "http.request.method": "POST",
        "http.route": "/predict",
        "http.response.status_code": 500,
        "error.type": "internal-error",
    }


def test_a_caller_s_mistake_is_no_error_of_the_server() -> None:
    exchange = Exchange(None)
    exchange.status, exchange.error = 422, "unreadable-image"
    server = tree(exchange, 0.1)[0]
    assert server.status.status_code is StatusCode.UNSET
    assert server.attributes
    assert server.attributes["error.type"] == "unreadable-image"
