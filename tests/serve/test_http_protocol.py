"""serve/server/protocol.py: heads that never end, and offers to go on in another protocol."""

import asyncio
import re
from collections.abc import Sequence
from itertools import product

import pytest
import uvicorn
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from benchmarks.fuzz.request_targets import said_to
from serve.server import protocol, workers

H2C = (b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABkAAQC")
OFFERS: dict[str, Sequence[bytes]] = {
    "h2c": H2C,
    "h2c in another order": H2C[::-1],
    "h2c without its settings": H2C[:2],
    "websocket": (
        *(b"Connection: Upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Version: 13"),
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    ),
    "TLS": (b"Upgrade: TLS/1.0", b"Connection: Upgrade"),
    "several at once": (b"Upgrade: h2c, websocket, IRC/6.9", b"Connection: upgrade"),
    "several fields": (b"Upgrade: h2c", b"X-A: b", b"Upgrade: websocket", b"Connection: upgrade"),
    "nothing": (b"Connection: Upgrade", b"Upgrade:"),
    "in other letters": (b"CONNECTION: uPGRADE", b"uPGRADE: H2C"),
    "with spaces": (b"Connection:  \t keep-alive ,Upgrade \t", b"Upgrade:\th2c\t "),
    "in another Connection": (b"Connection: keep-alive", b"Connection: upgrade", b"Upgrade: h2c"),
    "by a proxy's name": (b"Proxy-Connection: Upgrade", b"Upgrade: h2c"),
    "beside a nominated length": (b"Connection: content-length, upgrade, te", b"Upgrade: h2c"),
    "beside what only looks like one": (b"Connection: upgrade", b"Upgrade: h2c", b"Upgrades: x"),
}

_NEXT = b"GET /next HTTP/1.1\r\nHost: x\r\n\r\n"
_CHUNKS = b"3;a=b\r\nabc\r\n2\r\nde\r\n0\r\nX-Trailer: 1\r\n\r\n"
REQUESTS: dict[str, tuple[bytes, bytes]] = {  # line and fields, what follows the head
    "POST with a length": (
        b"POST /?a=b HTTP/1.1\r\nHost: x\r\nContent-Length: 5",
        b"abcde" + _NEXT,
    ),
    "POST in chunks": (
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked",
        _CHUNKS + _NEXT,
    ),
    "POST of a request": (
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d" % len(_NEXT),
        _NEXT + _NEXT,
    ),
    "POST that waits": (
        b"POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 5",
        b"abcde" + _NEXT,
    ),
    "POST without a body": (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0", _NEXT),
    "GET": (b"GET / HTTP/1.1\r\nHost: x\r\nX-Empty:", _NEXT),
    "GET with a body": (b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 5", b"abcde" + _NEXT),
    "HEAD": (b"HEAD / HTTP/1.1\r\nHost: x", _NEXT),
    "a connection's last": (
        b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 5",
        b"abcde" + _NEXT,
    ),
    "HTTP/1.0": (b"POST / HTTP/1.0\r\nContent-Length: 5", b"abcde" + _NEXT),
    "a target in bytes beyond ASCII": (b"GET /\xff HTTP/1.1\r\nHost: x", _NEXT),
    "two ends": (
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 5",
        _CHUNKS + _NEXT,
    ),
    "a chunk of no size": (
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked",
        b"g\r\n" + _NEXT,
    ),
}


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\nHost: x\r\nX-Slow: "])
def test_a_head_that_does_not_end_ends_the_connection(
    sent: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol.TimedProtocol, "head_timeout_s", 0.05)
    assert asyncio.run(_answer_to(sent)) == b""


def test_a_whole_request_is_answered_and_its_connection_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(protocol.TimedProtocol, "head_timeout_s", 30)
    whole = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
    last = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    assert asyncio.run(_answer_to(whole + last)).count(b"200 OK") == 2


@pytest.mark.parametrize(
    ("offer", "request_name"),
    [*product(OFFERS, list(REQUESTS)[:2]), *product(["h2c", "websocket"], list(REQUESTS)[2:])],
)
def test_an_offer_of_another_protocol_changes_no_answer(offer: str, request_name: str) -> None:
    head, rest = REQUESTS[request_name]
    expected = asyncio.run(said_to(_CONFIG, [head + b"\r\n\r\n" + rest]))
    assert expected, "or nothing would be compared"
    whole = b"\r\n".join([head, *OFFERS[offer], b"", rest])
    packets = [
        [whole],
        [whole[i : i + 1] for i in range(len(whole))],
        *([whole[:i], whole[i:]] for i in range(whole.index(rest) - 4, len(whole) - len(_NEXT))),
    ]
    for parts in packets:
        assert asyncio.run(said_to(_CONFIG, parts)) == expected


def test_offers_one_behind_another_are_all_ignored() -> None:
    head, rest = REQUESTS["POST with a length"]
    one = b"\r\n".join([head, *H2C, b"", rest])
    said = asyncio.run(said_to(_CONFIG, [one * 5]))
    assert said.count(b"b'abcde'") == said.count(b"/next?") == 5


def test_an_offer_behind_the_chunks_is_none() -> None:
    offer = b"\r\n".join([b"0", *H2C, b"", b""])
    sent = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + offer + _NEXT
    assert asyncio.run(said_to(_CONFIG, [sent])).count(b"200 OK") == 2


@pytest.mark.parametrize("target", [b"/", b"/predict", b"*", b"http://x/", b"x:80", b"x"])
@pytest.mark.parametrize("offer", ["h2c", None])
def test_a_tunnel_is_refused_whatever_its_target(target: bytes, offer: str | None) -> None:
    fields = [b"Host: x", b"Content-Length: %d" % len(_NEXT), *(OFFERS[offer] if offer else ())]
    head = b"\r\n".join([b"CONNECT " + target + b" HTTP/1.1", *fields, b"", b""])
    for parts in ([head + _NEXT + _NEXT], [head, _NEXT, _NEXT]):
        said = asyncio.run(said_to(_CONFIG, parts))
        assert said.startswith(b"HTTP/1.1 400 ")
        assert said.count(b"HTTP/1.1 ") == 1


@pytest.mark.parametrize(
    "none",
    [
        b"GET / HTTP/9\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nnone",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"\x16\x03\x01",
    ],
    ids=["version", "chunk", "length", "TLS"],
)
@pytest.mark.parametrize("before", [0, 1, 3])
def test_what_is_no_request_is_refused_behind_the_answers_to_those_before(
    before: int, none: bytes
) -> None:
    sent = _NEXT * before + none
    for parts in ([sent], [sent[i : i + 1] for i in range(len(sent))], [sent, _NEXT]):
        said = asyncio.run(said_to(_CONFIG, parts))
        statuses = re.findall(rb"HTTP/1.1 (\d+) ", said)
        assert statuses == [b"200"] * before + [b"400"]


async def _echo(scope: Scope, receive: Receive, send: Send) -> None:
    request = Request(scope, receive)
    read = f"{request.method} {request.url.path}?{request.url.query} {await request.body()!r}"
    await PlainTextResponse(read)(scope, receive, send)


_CONFIG = uvicorn.Config(_echo, lifespan="off", log_config=None, ws="none")


async def _answer_to(sent: bytes) -> bytes:
    """Everything that the server says until it ends the connection."""
    config = uvicorn.Config(
        PlainTextResponse("hello"),
        port=0,
        http=protocol.TimedProtocol,
        lifespan="off",
        log_config=None,
    )
    server = workers.Server(config)
    running = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(sent)
    answer = await asyncio.wait_for(reader.read(), 60)
    writer.close()
    server.should_exit = True
    await running
    return answer
