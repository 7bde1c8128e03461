"""Requests under guided fuzzing: bodies, which must have one reading, and bytes of a connection,
whose requests must not depend on how they are split, and agree with another HTTP parser.
"""

import asyncio
import atexit
import base64
import gzip
import json
import logging
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import h11
import msgspec
import uvicorn
from starlette.types import Receive, Scope, Send

from benchmarks.fuzz.pngs import SIGNATURE
from benchmarks.fuzz.targets import Target, hold
from serve.errors import ServiceError, problem_of
from serve.http import bodies
from serve.server.protocol import Connections, TimedProtocol
from serve.settings import Settings

# --- Bodies --------------------------------------------------------------------------------------

SETTINGS = Settings(cpus=1, max_body_bytes=2**16)
_PACK: dict[bytes, Callable[[bytes], bytes]] = {
    b"gzip": lambda body: gzip.compress(body, 1, mtime=0),
    b"deflate": lambda body: zlib.compress(body, 1),
}
Answer = tuple[Any, ...]


def _read_body(data: bytes) -> None:
    """Lines for content type, encoding and query, followed by the body."""
    content_type, encoding, query, body = (data.split(b"\n", 3) + [b""] * 3)[:4]
    answers = [_answers(content_type, encoding, query, parts) for parts in ([body], _halves(body))]
    hold(answers[0] == answers[1], "parts of a body change the answer")
    if not encoding:
        for name, pack in _PACK.items():
            packed = _answers(content_type, name, query, [pack(body)])
            hold(not body or packed == answers[0], f"{name!r} changes the answer")
        one, many = answers[0]
        _hold_json(content_type, body, one)
        for answer in (one, many):
            _hold_form(content_type, body, answer)


def _halves(body: bytes) -> list[bytes]:
    return [body[: len(body) // 2], body[len(body) // 2 :]]


def _answers(
    content_type: bytes, encoding: bytes, query: bytes, parts: Sequence[bytes]
) -> list[Answer]:
    """How /predict and /predict/batch read it."""
    headers = [(b"content-type", content_type), (b"content-encoding", encoding)]
    scope = {
        "type": "http",
        "query_string": query,
        "headers": [(name, value) for name, value in headers if value],
    }
    messages = [{"type": "http.request", "body": part, "more_body": True} for part in parts]
    messages[-1]["more_body"] = False
    waiting = iter(messages)

    async def receive() -> Any:
        return next(waiting)

    try:
        body = now(bodies.read_body(scope, receive, SETTINGS))
    except ServiceError as exc:
        return [_said(exc)] * 2
    hold(len(body) <= SETTINGS.max_body_bytes, f"{len(body)} bytes were unpacked")
    found: list[Answer] = []
    for read in (bodies.one_image, bodies.many_images):
        try:
            uploads, options = read(scope, body)
        except ServiceError as exc:
            found.append(_said(exc))
        else:
            uploads = [uploads] if isinstance(uploads, bodies.Upload) else uploads
            items = [
                _said(item.data) if isinstance(item.data, ServiceError) else item.data
                for item in uploads
            ]
            found.append((items, *options))
    return found


def now(work: Any) -> Any:
    return _LOOP.run_until_complete(work)


def _said(exc: ServiceError) -> Answer:
    problem = problem_of(type(exc), exc.detail, "") | {"field": exc.field}
    return tuple(msgspec.json.decode(msgspec.json.encode(problem))[key] for key in _PROBLEM)


_PROBLEM = ("status", "type", "detail", "field")


def _hold_json(content_type: bytes, body: bytes, answer: Answer) -> None:
    """JSON is read as Python reads it; base64 is decoded as Python decodes it."""
    if content_type != b"application/json" or not isinstance(answer[0], list):
        return
    plain = json.loads(body.removeprefix(b"\xef\xbb\xbf"))
    hold(answer[1] == plain.get("top_k", 3), f"top_k is {answer[1]}")
    hold(answer[2] is plain.get("probabilities", False), f"probabilities is {answer[2]}")
    if isinstance(found := answer[0][0], bytes) and plain["image"][:5].lower() != "data:":
        text = plain["image"].translate(str.maketrans("-_", "+/", "= \t\r\n\f\v"))
        expected = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
        hold(found == expected, "Python decodes other bytes")


def _hold_form(content_type: bytes, body: bytes, answer: Answer) -> None:
    is_form = content_type.startswith(b"multipart/form-data")
    if is_form and isinstance(answer[0], list) and b"base64" not in body.lower():
        hold(all(item in body for item in answer[0] if isinstance(item, bytes)), "made up bytes")


def _bodies() -> Iterator[bytes]:
    file = SIGNATURE + bytes(range(200, 250))
    text, form = base64.b64encode(file).decode(), b"multipart/form-data; boundary=b"
    fields: list[dict[str, Any]] = [
        {"image": text},
        {"image": f"data:image/png;base64,{text}", "top_k": 5, "probabilities": True},
        {"image": text, "top_k": 3.0, "saliency": True},
        {"images": [text, "?", text.replace("/", "_").rstrip("=")], "top_k": 1},
        {"image": "€\ud83d\ude00\\u0000", "unknown": [None, {"a": 1e5}]},
    ]
    written = [json.dumps(one).encode() for one in fields]
    for body in (*written, b"\xef\xbb\xbf" + written[0], b"", b"[]", b"{", b"null"):
        yield b"application/json\n\n\n" + body
        yield b"\n\ntop_k=2&probabilities=true\n" + body
    part = b'--b\r\nContent-Disposition: form-data; name="%s"%s\r\n%s\r\n%s\r\n'
    image = part % (b"image", b'; filename="a.png"', b"Content-Type: image/png\r\n", file)
    many = image.replace(b'"image"', b'"images"')
    option = part % (b"top_k", b"", b"", b"2")
    for body in (image + option, many * 2 + option, b"preamble\r\n" + image, image[:-9], b"text"):
        yield form + b"\n\n\n" + body + b"--b--\r\n"
    for kind in (b"image/png", b"application/octet-stream", b"text/plain", b""):
        yield kind + b"\n\ntop_k=1000\n" + file
    for name, pack in _PACK.items():
        yield b"application/json\n" + name + b"\n\n" + pack(written[0])
        yield b"application/json\n" + name + b"\n\n" + pack(written[0])[:-5]
        yield b"application/json\n" + name + b"\n\n" + pack(bytes(2**17))
    yield b"application/json\ngzip\n\n" + _PACK[b"gzip"](written[0][:9]) + _PACK[b"gzip"](b"}")
    bare = zlib.compressobj(wbits=-15)
    yield b"application/json\ndeflate\n\n" + bare.compress(written[0]) + bare.flush()
    yield b"application/json\nbr\n\n" + written[0]


_BODY_WORDS = (
    *(b"application/json", b"multipart/form-data; boundary=", b"image/*", b"+json", b"identity"),
    *(b"gzip", b"deflate", b'"image"', b'"images"', b'"top_k"', b'"probabilities"', b"data:"),
    *(b";base64,", b"\\ud800", b"Content-Disposition: form-data; name=", b"filename*=", b"--b"),
    *(
        b"\r\n\r\n",
        b"Content-Transfer-Encoding: base64",
        b"Content-Type:",
        b"%00",
        b"1e400",
        b"true",
        b"NaN",
        b"-0.0",
    ),
)


# --- HTTP ----------------------------------------------------------------------------------------


class Transport(asyncio.Transport):
    """Records what was written to it."""

    def __init__(self) -> None:
        super().__init__({"peername": ("127.0.0.1", 1), "sockname": ("127.0.0.1", 2)})
        self.said, self.closing = b"", False

    def write(self, data: Any) -> None:
        if not self.closing:
            self.said += data

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.closing = True

    abort = close

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


async def said_to(config: uvicorn.Config, parts: Sequence[bytes]) -> bytes:
    """The protocol's response to data arriving in these parts, before the client disconnects.

    The application must answer a complete request within a few iterations of the loop.
    """
    state = Connections()
    protocol = TimedProtocol(config, state, {})
    transport = Transport()
    protocol.connection_made(transport)
    for part in parts:
        if not transport.closing:
            protocol.data_received(part)
        for _ in range(3):  # complete requests are answered, as may happen before the next part
            if state.tasks:
                await asyncio.sleep(0)
    for _ in range(20):
        if not state.tasks:
            break
        await asyncio.sleep(0)
    protocol.connection_lost(None)
    return transport.said


class Request(NamedTuple):
    method: bytes
    target: bytes
    body: bytes


async def _record(scope: Scope, receive: Receive, send: Send) -> None:
    """Records complete requests, and answers all with empty responses."""
    body = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        body += message["body"]
        if not message["more_body"]:
            break
    target = scope["raw_path"] + (b"?" + scope["query_string"] if scope["query_string"] else b"")
    _SEEN.append(Request(scope["method"].encode(), target, body))
    await send(
        {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]}
    )
    await send({"type": "http.response.body", "body": b""})


logging.getLogger("uvicorn").setLevel(logging.CRITICAL)  # the warning names every malformed request
_SEEN: list[Request] = []
_LOOP = asyncio.new_event_loop()
atexit.register(_LOOP.close)
_CONFIG = uvicorn.Config(
    _record, lifespan="off", log_config=None, ws="none", date_header=False, proxy_headers=False
)


def _converse(data: bytes) -> None:
    whole = _heard([data])
    middle = zlib.crc32(data) % (len(data) + 1)
    hold(
        _heard([data[:middle], data[middle:]]) == whole, f"split at {middle}, it is read otherwise"
    )
    if len(data) < 300:
        one_by_one = _heard([data[i : i + 1] for i in range(len(data))])
        hold(one_by_one == whole, "byte by byte, it is read otherwise")
    for ours, theirs in zip(whole[0], _heard_by_h11(data), strict=False):
        same = (ours.method, ours.body) == (theirs.method, theirs.body)
        hold(same, f"read as {ours}, by h11 as {theirs}")


def _heard(parts: Sequence[bytes]) -> tuple[list[Request], bytes]:
    """Complete requests, and the responses."""
    _SEEN.clear()
    said = now(said_to(_CONFIG, parts))
    return [*_SEEN], said


def _heard_by_h11(data: bytes) -> list[Request]:
    """The requests up to the first that h11 rejects, or that closes the connection."""
    connection, found = h11.Connection(h11.SERVER), list[Request]()
    connection.receive_data(data)
    with suppress(h11.ProtocolError):
        while isinstance(request := connection.next_event(), h11.Request):
            body = b""
            while isinstance(part := connection.next_event(), h11.Data):
                body += bytes(part.data)
            if not isinstance(part, h11.EndOfMessage):
                break
            found.append(Request(request.method, request.target, body))
            nothing = [("content-length", "0")]
            connection.send(h11.Response(status_code=200, headers=nothing))
            connection.send(h11.EndOfMessage())
            connection.start_next_cycle()
    return found


def _conversations() -> Iterator[bytes]:
    following = b"GET /next?a=b HTTP/1.1\r\nHost: x\r\n\r\n"
    length, chunked = b"Content-Length: 5", b"Transfer-Encoding: chunked"
    chunks = b"3;a=b\r\nabc\r\n2\r\nde\r\n0\r\nX-Trailer: 1\r\n\r\n"
    offer = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQC"
    post, get = b"POST / HTTP/1.1\r\nHost: x", b"GET / HTTP/1.1\r\nHost: x"
    heads = (
        *((post, length, b"abcde"), (post, chunked, chunks), (post, b"Host: y", b"")),
        *((b"POST / HTTP/1.0", length, b"abcde"), (get, length, b"abcde")),
        (post, length + b"\r\n" + chunked, chunks),
        (post, b"Transfer-Encoding: gzip, chunked", chunks),
        (post, b"Expect: 100-continue\r\n" + length, b"abcde"),
        (post, b"Connection: close\r\n" + length, b"abcde"),
        *((b"HEAD / HTTP/1.1", b"Host: x", b""), (b"CONNECT x:80 HTTP/1.1", b"Host: x", b"")),
        *((b"OPTIONS * HTTP/1.1", b"Host: x", b""), (b"GET http://x/ HTTP/1.1", b"Host: x", b"")),
        (b"GET / HTTP/1.1", b"Host: x\r\nX-Folded: a\r\n b", b""),
        (b"PRI * HTTP/2.0", b"", b"SM\r\n\r\n"),
    )
    for line, fields, body in heads:
        for added in (b"", b"\r\n" + offer):
            yield line + b"\r\n" + fields + added + b"\r\n\r\n" + body + following
    yield following * 3
    yield b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03"


_HTTP_WORDS = (
    *(b"\r\n\r\n", b"Content-Length: ", b"Transfer-Encoding: chunked", b"Connection: close"),
    *(b"Upgrade: h2c", b"Connection: upgrade", b"Expect: 100-continue", b"HTTP/1.0", b"HTTP/1.1"),
    *(b"GET / ", b"POST / ", b"CONNECT ", b"0\r\n\r\n", b"ffffffffffffffff", b"identity", b" ,\t"),
    *(b"Connection: keep-alive", b"+5", b"0x5", b"\n\n", b"\0"),
)


BODIES = Target("bodies", _read_body, _bodies, 2048, _BODY_WORDS)
HTTP_PROTOCOL = Target("http_protocol", _converse, _conversations, 1024, _HTTP_WORDS)
