"""uvicorn's HTTP protocol with timeouts and limits on request heads, without protocol upgrades.

uvicorn closes connections that are idle between requests, but one that sends its headers a byte at
a time, or none at all, would stay open for ever, and so would one that keeps sending a rejected
body. serve/http/bodies.py has the timeout of bodies.

Nor does uvicorn limit the bytes of a head, or of a body beside its data (chunk extensions,
trailers), and it treats trailers as request headers, though a proxy that removes headers checks
only the head (CWE-444).

A request may offer a protocol upgrade, as the first request of every Java HttpClient and of `curl
--http2` does (`Upgrade: h2c`). A server may ignore it (RFC 9110, 7.8), but httptools stops after
such a head, and what follows is the body for one reader and a new request for another
(uvicorn#2722, CWE-444). Here the head is parsed again without the offer.

httptools does not check Host, and accepts any list of transfer codings that ends in `chunked`; a
proxy may route by another Host, or undo another coding. Such requests are rejected (RFC 9112, 3.2
and 6.1).
"""

import asyncio
import re
from itertools import islice
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from serve.exchange import WHOLE
from serve.server.connections import ConnectionCounts

# Checked per read of up to 256 KiB, by which a head may exceed it.
_MOST_BESIDE_DATA = 64 * 1024


_LAST_MOMENT_S = 1.0  # for a request in progress at shutdown
_ROOM = 8  # idle connections closed at once


class Connections(ServerState):
    """A process's connections, as uvicorn keeps them, and which of them are idle."""

    def __init__(self) -> None:
        super().__init__()
        self.is_ending = False  # close after each response
        self.idle: dict[TimedProtocol, None] = {}  # longest idle first

    def make_room(self) -> bool:
        """Closes some idle connections; False if there are none."""
        ended = list(islice(self.idle, _ROOM))
        for connection in ended:
            del self.idle[connection]
            connection.transport.abort()
        return bool(ended)


class _NoUpgradeParser(httptools.HttpRequestParser):
    """A parser that reads on where httptools hands the connection to the offered protocol."""

    def __init__(self, protocol: "TimedProtocol") -> None:
        super().__init__(protocol)
        self._protocol = protocol
        self.set_dangerous_leniencies(lenient_data_after_close=True)  # as in uvicorn's own protocol

    def feed_data(self, data: Any) -> None:
        rest = data
        while True:
            try:
                super().feed_data(rest)
            except httptools.HttpParserUpgrade as offer:
                rest = memoryview(rest)[offer.args[0] :]
            else:
                return
            head = self._protocol.head_without_offer()
            _NoUpgradeParser.__init__(self, self._protocol)  # the last request may have been seen
            super().feed_data(head)


# uri-host [":" port] of RFC 3986, or empty.
_HOST = re.compile(rb"(?:[\w.~!$&'()*+,;=%-]*|\[[\w.:~!$&'()*+,;=-]+\])(?::\d*)?", re.ASCII)


def _check_framing(version: str, headers: list[tuple[bytes, bytes]]) -> None:
    """Raises ValueError on a head that a proxy may interpret differently."""
    hosts = [value for name, value in headers if name == b"host"]
    if len(hosts) > 1 or (not hosts and version == "1.1"):
        raise ValueError(f"{len(hosts)} hosts")
    if hosts and not _HOST.fullmatch(hosts[0]):
        raise ValueError("a malformed Host")
    codings = [value for name, value in headers if name == b"transfer-encoding"]
    if codings and (len(codings) > 1 or codings[0].lower() != b"chunked" or version != "1.1"):
        raise ValueError("an unknown transfer coding")


class TimedProtocol(HttpToolsProtocol):
    """Closes connections whose first byte or headers do not arrive in time, or exceed the
    limits.
    """

    head_timeout_s = 10.0
    counts: ConnectionCounts | None = None
    server_state: Connections
    _beside_data = 0  # bytes received since the end of the last head or chunk of body data
    _refusal = ""  # bytes received last, counted once earlier requests are answered
    _timer: asyncio.TimerHandle | None = None

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.parser = _NoUpgradeParser(self)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait_for_request()
        if self.counts is not None:
            self.counts.opened()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.counts is not None:
            self.counts.closed()
        self._head_is_here()
        super().connection_lost(exc)

    def eof_received(self) -> bool:  # type: ignore[override]
        """A client may half-close the connection after a request, and is still answered."""
        cycle = self.cycle
        is_owed = cycle is not None and not (cycle.more_body or cycle.response_complete)
        if is_owed:
            cycle.keep_alive = False
        return is_owed

    def shutdown(self) -> None:
        """Closes after the response to the last request that is here or on its way."""
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.keep_alive = False
        else:
            self._expect_head()

    def data_received(self, data: bytes) -> None:
        if self._refusal:
            return
        self._beside_data += len(data)
        super().data_received(data)
        if self._beside_data > _MOST_BESIDE_DATA:
            self._give_up()

    def on_message_begin(self) -> None:
        self._expect_head()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        if self.parser.should_upgrade():
            # Never has a body, whatever its Content-Length.
            if self.parser.get_method() == b"CONNECT":
                raise ValueError("CONNECT is not supported")  # answered by 400
            return  # the same head is parsed again without the offer
        _check_framing(self.parser.get_http_version(), self.headers)
        self._head_is_here()
        self._beside_data = 0
        super().on_headers_complete()
        if self.server_state.is_ending:
            self.cycle.keep_alive = False
        self.headers = []  # bytes after a body are discarded here: the request has its own buffer

    def on_body(self, body: bytes) -> None:
        self._beside_data = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        if not self.parser.should_upgrade():
            # Before the application runs, if it arrived in one piece.
            self.scope[WHOLE] = True  # type: ignore[literal-required]
            super().on_message_complete()

    def head_without_offer(self) -> bytes:
        """The last head, without its offer of another protocol."""
        version = self.parser.get_http_version().encode()
        lines = [self.parser.get_method() + b" " + self.url + b" HTTP/" + version]
        lines += [name + b": " + value for name, value in self.headers if name != b"upgrade"]
        return b"\r\n".join([*lines, b"", b""])

    def send_400_response(self, msg: str) -> None:
        """Answers 400 to a malformed request or body, after the pending responses.

        uvicorn answers the first pending request with it, which may be another one.
        """
        cycle = self.cycle
        if cycle is None or (cycle.response_complete and not cycle.more_body):
            super().send_400_response(msg)
        elif not cycle.more_body:
            self._refusal = msg
        elif self.pipeline:  # its body is malformed, and its turn has not come
            self.pipeline.popleft()
            self._refusal = msg
        elif cycle.response_started:
            self.transport.close()
        else:
            super().send_400_response(msg)

    def on_response_complete(self) -> None:
        if self._refusal and not self.pipeline and not self.transport.is_closing():
            super().send_400_response(self._refusal)
        if self.cycle is not None and self.cycle.more_body:  # answered before its body arrived
            self._wait_for_request()
        elif self.cycle is None or self.cycle.response_complete:
            self.server_state.idle[self] = None
        super().on_response_complete()

    def _wait_for_request(self) -> None:
        self._expect_head()
        self.server_state.idle[self] = None

    def _expect_head(self) -> None:
        self._cancel_timer()
        seconds = self.head_timeout_s
        if self.server_state.is_ending:
            seconds = min(seconds, _LAST_MOMENT_S)
        self._timer = self.loop.call_later(seconds, self._give_up)

    def _head_is_here(self) -> None:
        self.server_state.idle.pop(self, None)
        self._cancel_timer()

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _give_up(self) -> None:
        transport: Any = self.transport
        if not transport.is_closing():
            transport.close()
