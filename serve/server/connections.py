"""The connections of a process: its share of them, and who gives way where there are too many.

Processes share one socket that listens. Each takes connections from it so that all have as many,
else the first to wake would take them all. Where descriptors run out, connections without a request
give way. When the service ends, the system first accepts no more of them, then those that it has
accepted are taken, and then the socket is closed: the system would reset those that still wait.
"""

import asyncio
import ctypes
import errno
import fcntl
import logging
import mmap
import os
import resource
import socket
import struct
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from typing import Any

import uvloop

_MEMORY = "KILN_CONNECTION_COUNTS"  # the variable by which processes learn where it is
_COUNT_BYTES = 4
_NOBODY = -1
_COURTESY_S = 1e-3  # for those with fewer connections to take one; they may be busy
_EXHAUSTED_S = 1.0  # without accepting, where the machine has no files or memory for more
_GIVING_WAY_S = 1e-3  # until connections that were ended have given their descriptors back
_SPARE = 8  # descriptors that are for the service itself
_NO_DESCRIPTORS = (errno.EMFILE, errno.ENFILE)
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
        """Connections of each process that is there, or died."""
        return [count for count in self._counts if count != _NOBODY]

    def opened(self) -> None:
        """This process has one more."""
        self._counts[self._own] += 1

    def closed(self) -> None:
        """This process has one less."""
        self._counts[self._own] -= 1

    def leave(self) -> None:
        """Connections that wait are no longer for this process."""
        self._counts[self._own] = _NOBODY
        self.opened = self.closed = lambda: None  # type: ignore[method-assign]

    @property
    def others_have_fewer(self) -> bool:
        """Whether a connection that waits is better taken by another process."""
        return min(self.counts) < self._counts[self._own]


def share_counts(processes: int) -> None:
    """Allocates the shared memory in the parent, before it starts the processes, of which there is
    one more while one is replaced."""
    places = processes + 1
    if hasattr(os, "memfd_create"):  # Linux; elsewhere chance decides
        file = os.memfd_create("kiln-connections")
        os.write(file, _NOBODY.to_bytes(_COUNT_BYTES, "little", signed=True) * places)
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


# Classic BPF on what comes to a socket that listens, from the TCP header on: a SYN is dropped, and
# what belongs to a handshake that has begun is let in.
_SO_ATTACH_FILTER = 26
_NO_SYN = (
    (0x30, 0, 0, 13),  # load the flags
    (0x45, 0, 1, 0x02),  # is SYN among them?
    (0x06, 0, 0, 0),  # then nothing of it is kept,
    (0x06, 0, 0, 0xFFFF_FFFF),  # else all
)


def refuse_newcomers(listener: socket.socket) -> None:
    """Has the system begin no more connections, in all processes that share the socket.

    Callers try again by themselves, after a second, and are refused, or answered by a successor. A
    socket that is closed without this resets connections which were made since the last was taken.
    """
    if sys.platform == "linux":
        program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *i) for i in _NO_SYN))
        address = struct.pack("HL", len(_NO_SYN), ctypes.addressof(program))
        with suppress(OSError):  # a sandbox may not know filters: then a few may be reset
            listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, address)


class EvenLoop(uvloop.Loop):
    """uvloop, whose servers take their share of the connections of a socket that is given."""

    async def create_server(  # type: ignore[override]
        self,
        protocol_factory: Callable[[], asyncio.Protocol],
        host: Any = None,
        port: Any = None,
        *,
        sock: socket.socket | None = None,
        backlog: int = 100,
        **options: Any,
    ) -> "asyncio.AbstractServer | Acceptor":
        """Like asyncio's."""
        if sock is None:
            return await super().create_server(
                protocol_factory, host, port, backlog=backlog, **options
            )
        return Acceptor(self, protocol_factory, sock, backlog, own_counts())


class Acceptor:
    """What uvicorn needs of asyncio.Server, on a socket that may be shared with other processes."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        protocol_factory: Callable[[], asyncio.Protocol],
        listener: socket.socket,
        backlog: int,
        counts: ConnectionCounts | None,
    ) -> None:
        self._loop, self._protocol_factory, self._counts = loop, protocol_factory, counts
        self.make_room: Callable[[], bool] = lambda: False  # ends some that have no request
        self._crowded = resource.getrlimit(resource.RLIMIT_NOFILE)[0] - _SPARE
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
        if self._counts is not None and self._counts.others_have_fewer:
            self._pause_for(_COURTESY_S, self._insist)
        else:
            self._accept()

    def _insist(self) -> None:
        self._listen()
        self._accept()

    def _pause_for(self, seconds: float, then: Callable[[], None]) -> None:
        self._loop.remove_reader(self._listener)
        self._pause = self._loop.call_later(seconds, then)

    def _accept(self) -> bool:
        """Takes one of the connections that wait; False if there is none, or no room for it."""
        try:
            connection, _ = self._listener.accept()
        except ConnectionAbortedError:
            return True  # the caller went away
        except (BlockingIOError, InterruptedError):
            return False  # another process was faster
        except OSError as exc:
            if exc.errno in _NO_DESCRIPTORS and self.make_room():
                self._pause_for(_GIVING_WAY_S, self._listen)
                return False
            logger.error("cannot accept connections", extra={"reason": str(exc)})
            self._pause_for(_EXHAUSTED_S, self._listen)
            return False
        if connection.fileno() >= self._crowded:
            self.make_room()
        connection.setblocking(False)
        opening = self._loop.create_task(
            self._loop.connect_accepted_socket(self._protocol_factory, connection)
        )
        self._opening.add(opening)
        opening.add_done_callback(self._opening.discard)
        return True

    def close(self) -> None:
        """Takes what waits, and no more."""
        if self._listener.fileno() >= 0:
            while self._accept():
                pass
            if self._pause is not None:
                self._pause.cancel()
            self._loop.remove_reader(self._listener)
            self._listener.close()
            if self._counts is not None:
                self._counts.leave()

    async def wait_closed(self) -> None:
        pass  # the connections are the caller's
