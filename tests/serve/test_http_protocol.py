"""serve/http_protocol.py: callers who never finish the head of a request are sent away."""

import asyncio

import pytest
import uvicorn
from starlette.responses import PlainTextResponse

from serve import http_protocol


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\nHost: x\r\nX-Slow: "])
def test_a_head_that_does_not_end_ends_the_connection(
    sent: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_protocol.ImpatientProtocol, "head_timeout_s", 0.05)
    assert asyncio.run(_answer_to(sent)) == b""


def test_a_whole_request_is_answered_and_its_connection_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(http_protocol.ImpatientProtocol, "head_timeout_s", 30)
    whole = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
    last = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    assert asyncio.run(_answer_to(whole + last)).count(b"200 OK") == 2


async def _answer_to(sent: bytes) -> bytes:
    """Everything that the server says until it ends the connection."""
    config = uvicorn.Config(
        PlainTextResponse("hello"),
        port=0,
        http=http_protocol.ImpatientProtocol,
        lifespan="off",
        log_config=None,
    )
    server = uvicorn.Server(config)
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
