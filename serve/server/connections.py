"""uvicorn with header timeouts and limits, and connections shared evenly by processes.

uvicorn ends connections that are idle between requests; one that sends its headers a byte at a
time, or none at all, would stay for ever, and so would one that goes on with a body which was
refused. Bodies are timed by serve/http/bodies.py.

Nor does uvicorn limit how many bytes a head has, or what a body has beside its data (the parts of
a chunk's line, the fields after the last chunk), and it takes such fields for headers of the
request, though a proxy that removes headers looks for them in the head alone (CWE-444).

A request may offer to go on in another protocol, as the first of every Java HttpClient does and
those of `curl --http2` (`Upgrade: h2c`). A server may ignore that (RFC 9110, 7.8), but httptools
stops behind such a head, and what comes next is the body for one reader and a request for another
(uvicorn#2722, CWE-444). Here the head is read once more without the offer.
"""

import asyncio
import fcntl
import logging
import mmap
import os
import socket
from collections.abc import Callable
from functools import cache
from typing import Any

import httptools
import uvloop
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_MEMORY = "KILN_CONNECTION_COUNTS"  # the variable by which processes learn where it is
_COUNT_BYTES = 4
_NOBODY = -1
_COURTESY_S = 1e-3  # for those with fewer connections to take one; they may be busy
_EXHAUSTED_S = 1.0  # without accepting, where the machine has no files or memory for more
logger = logging.getLogger(__name__)


class ConnectionCounts:
    """How many connections each process has, in memory that they share."""

    def __init__(self, path: str) -> None:
        """Takes the place of a process that is not there yet, or not any more.

        Raises:
            OSError: the memory cannot be opened, or all places are taken.
        """
        self._file = os.open(path, os.O_RDWR)  # stays open: the locks go with it
        self._counts = memoryview(mmap.mmap(self._file, 0)).cast("i")
        self._own = self._free_place()
        self._counts[self._own] = 0

    def _free_place(self) -> int:
        for place in range(len(self._counts)):
            try:  # the system unlocks what was a dead process's
                fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, place * _COUNT_BYTES)
            except BlockingIOError:
                continue
            return place
        raise BlockingIOError("as many processes as there are places")

    @property
    def counts(self) -> list[int]:
        """Connections of each process that was ever there."""
        return [count for count in self._counts if count != _NOBODY]

    def opened(self) -> None:
        """This process has one more."""
        self._counts[self._own] += 1

    def closed(self) -> None:
        """This process has one less."""
        self._counts[self._own] -= 1

    @property
    def others_have_fewer(self) -> bool:
        """Whether a connection that waits is better taken by another process."""
        return min(self.counts) < self._counts[self._own]


def share_counts(processes: int) -> None:
    """Allocates the shared memory in the parent, before it starts the processes."""
    if hasattr(os, "memfd_create"):  # Linux; elsewhere chance decides
        file = os.memfd_create("kiln-connections")
        os.write(file, _NOBODY.to_bytes(_COUNT_BYTES, "little", signed=True) * processes)
        os.environ[_MEMORY] = f"/proc/{os.getpid()}/fd/{file}"


@cache
def own_counts() -> ConnectionCounts | None:
    """The counts as this process sees them, if its parent has others to share connections with."""
    path = os.environ.get(_MEMORY)
    if path is None:
        return None
    try:
        return ConnectionCounts(path)
    except OSError as exc:
        logger.warning("connections are not shared out evenly", extra={"reason": str(exc)})
        return None


class EvenLoop(uvloop.Loop):
    """uvloop, whose servers take their share of the connections."""

    async def create_server(  # type: ignore[override]
        self,
        protocol_factory: Callable[[], asyncio.Protocol],
        host: Any = None,
        port: Any = None,
        *,
        sock: socket.socket | None = None,
        backlog: int = 100,
        **options: Any,
    ) -> "asyncio.AbstractServer | _EvenServer":
        """Like asyncio's, on a socket that is shared with other processes or for this one alone."""
        counts = own_counts()
        if counts is None or sock is None:
            return await super().create_server(
                protocol_factory, host, port, sock=sock, backlog=backlog, **options
            )
        return _EvenServer(self, protocol_factory, sock, backlog, counts)


class _EvenServer:
    """What uvicorn needs of asyncio.Server."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        protocol_factory: Callable[[], asyncio.Protocol],
        listener: socket.socket,
        backlog: int,
        counts: ConnectionCounts,
    ) -> None:
        self._loop, self._protocol_factory, self._counts = loop, protocol_factory, counts
        self._listener = listener.dup()  # whose life is this server's
        self._listener.setblocking(False)
        self._listener.listen(backlog)
        self._pause: asyncio.TimerHandle | None = None
        self._opening: set[asyncio.Task[Any]] = set()
        self._listen()

    def _listen(self) -> None:
        self._pause = None
        self._loop.add_reader(self._listener, self._somebody_waits)

    def _somebody_waits(self) -> None:
        if self._counts.others_have_fewer:
            self._pause_for(_COURTESY_S, self._insist)
        else:
            self._accept()

    def _insist(self) -> None:
        self._listen()
        self._accept()

    def _pause_for(self, seconds: float, then: Callable[[], None]) -> None:
        self._loop.remove_reader(self._listener)
        self._pause = self._loop.call_later(seconds, then)

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return  # another process was faster, or the caller went away
        except OSError as exc:
            logger.error("cannot accept connections", extra={"reason": str(exc)})
            self._pause_for(_EXHAUSTED_S, self._listen)
            return
        connection.setblocking(False)
        opening = self._loop.create_task(
            self._loop.connect_accepted_socket(self._protocol_factory, connection)
        )
        self._opening.add(opening)
        opening.add_done_callback(self._opening.discard)

    def close(self) -> None:
        if self._pause is not None:
            self._pause.cancel()
        if self._listener.fileno() >= 0:
            self._loop.remove_reader(self._listener)
            self._listener.close()

    async def wait_closed(self) -> None:
        pass  # the connections are the caller's


# Counted by what the system hands over at once, 256 KiB at most: a head may be longer by that.
_MOST_BESIDE_DATA = 64 * 1024


class _NoUpgradeParser(httptools.HttpRequestParser):
    """Reads on where httptools leaves the connection to the protocol that a request offers."""

    def __init__(self, protocol: "TimedProtocol") -> None:
        super().__init__(protocol)
        self._protocol = protocol
        self.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn's own

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
            _NoUpgradeParser.__init__(self, self._protocol)  # it may have seen a last request
            super().feed_data(head)


class TimedProtocol(HttpToolsProtocol):
    """Closes connections whose first byte or whose headers do not come, or come without end."""

    head_timeout_s = 10.0
    counts: ConnectionCounts | None = None
    _beside_data = 0  # bytes that came since the last of a head or of a body's data
    _timer: asyncio.TimerHandle | None = None

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.parser = _NoUpgradeParser(self)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._expect_head()
        if self.counts is not None:
            self.counts.opened()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.counts is not None:
            self.counts.closed()
        self._head_is_here()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._beside_data += len(data)
        super().data_received(data)
        if self._beside_data > _MOST_BESIDE_DATA:
            self._give_up()

    def on_message_begin(self) -> None:
        self._expect_head()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        if self.parser.should_upgrade():
            if self.parser.get_method() == b"CONNECT":  # never has a body, whatever its length
                raise ValueError("there are no tunnels here")  # which is answered by a 400
            return  # the same head comes again without the offer
        self._head_is_here()
        self._beside_data = 0
        super().on_headers_complete()
        self.headers = []  # what comes after a body goes there: the request has its own

    def on_body(self, body: bytes) -> None:
        self._beside_data = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        if not self.parser.should_upgrade():
            super().on_message_complete()

    def head_without_offer(self) -> bytes:
        """The head that was read last, as it would be if it offered no other protocol."""
        version = self.parser.get_http_version().encode()
        lines = [self.parser.get_method() + b" " + self.url + b" HTTP/" + version]
        lines += [name + b": " + value for name, value in self.headers if name != b"upgrade"]
        return b"\r\n".join([*lines, b"", b""])

    def on_response_complete(self) -> None:
        if self.cycle is not None and self.cycle.more_body:  # answered before the body was here
            self._expect_head()
        super().on_response_complete()

    def _expect_head(self) -> None:
        self._head_is_here()
        self._timer = self.loop.call_later(self.head_timeout_s, self._give_up)

    def _head_is_here(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _give_up(self) -> None:
        transport: Any = self.transport
        if not transport.is_closing():
            transport.close()
