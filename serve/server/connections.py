"""A process's connections: its fair share of them, and which are closed when there are too many.

Processes share one listening socket. Each accepts only while it has no more connections than the
others; otherwise the first to wake would take them all. When file descriptors run out, idle
connections are closed. At shutdown, the kernel first stops accepting new connections, then those
already in the backlog are served, and only then the socket is closed: closing it earlier would
reset them.
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

_MEMORY = "KILN_CONNECTION_COUNTS"  # the variable that names the shared memory to worker processes
_COUNT_BYTES = 4
_NOBODY = -1
_COURTESY_S = 1e-3  # for a process with fewer connections to accept first; it may be busy
_EXHAUSTED_S = 1.0  # pause in accepting when the machine has no files or memory left
_GIVING_WAY_S = 1e-3  # until closed connections have released their descriptors
_SPARE = 8  # descriptors reserved for the service itself
_NO_DESCRIPTORS = (errno.EMFILE, errno.ENFILE)
logger = logging.getLogger(__name__)


class ConnectionCounts:
    """The number of connections of each process, in shared memory."""

    def __init__(self, path: str) -> None:
        """Takes the slot of a process that has not started or has ended.

        Raises:
            OSError: the memory cannot be opened, or all slots are taken.
        """
        self._file = os.open(path, os.O_RDWR)  # stays open: closing it releases the locks
        self._counts = memoryview(mmap.mmap(self._file, 0)).cast("i")
        self._own = self._free_place()
        self._counts[self._own] = 0

    def _free_place(self) -> int:
        for place in range(len(self._counts)):
            try:  # the kernel releases a dead process's lock
                fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, place * _COUNT_BYTES)
            except BlockingIOError:
                continue
            return place
        raise BlockingIOError("all slots for processes are taken")

    @property
    def counts(self) -> list[int]:
        """Connections of each process, running or dead."""
        return [count for count in self._counts if count != _NOBODY]

    def opened(self) -> None:
        """Counts a new connection of this process."""
        self._counts[self._own] += 1

    def closed(self) -> None:
        """Counts a closed connection of this process."""
        self._counts[self._own] -= 1

    def leave(self) -> None:
        """Withdraws this process from accepting waiting connections."""
        self._counts[self._own] = _NOBODY
        self.opened = self.closed = lambda: None  # type: ignore[method-assign]

    @property
    def others_have_fewer(self) -> bool:
        """Whether another process should accept the next connection."""
        return min(self.counts) < self._counts[self._own]


def share_counts(processes: int) -> None:
    """Allocates the shared memory in the parent, before it starts the processes; one slot is spare
    for replacements.
    """
    places = processes + 1
    if hasattr(os, "memfd_create"):  # Linux only; elsewhere the distribution is left to chance
        file = os.memfd_create("kiln-connections")
        os.write(file, _NOBODY.to_bytes(_COUNT_BYTES, "little", signed=True) * places)
        os.environ[_MEMORY] = f"/proc/{os.getpid()}/fd/{file}"


@cache
def own_counts() -> ConnectionCounts | None:
    """The counts as this process sees them; None if the parent shares none."""
    path = os.environ.get(_MEMORY)
    if path is None:
        return None
    try:
        return ConnectionCounts(path)
    except OSError as exc:
        logger.warning("connections are not shared out evenly", extra={"reason": str(exc)})
        return None


# Classic BPF on packets to a listening socket, from the TCP header on: drops SYNs, and accepts
# packets of handshakes that have begun.
_SO_ATTACH_FILTER = 26
_NO_SYN = (
    (0x30, 0, 0, 13),  # load the flags
    (0x45, 0, 1, 0x02),  # is SYN set?
    (0x06, 0, 0, 0),  # then drop the packet,
    (0x06, 0, 0, 0xFFFF_FFFF),  # otherwise accept all of it
)


def refuse_newcomers(listener: socket.socket) -> None:
    """Makes the kernel drop new connections, for all processes that share the socket.

    Callers retry by themselves after a second, and are refused or served by a successor. Closing a
    socket without this resets connections completed since the last accept.
    """
    if sys.platform == "linux":
        program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *i) for i in _NO_SYN))
        address = struct.pack("HL", len(_NO_SYN), ctypes.addressof(program))
        # A sandbox may not allow filters; then a few connections may be reset.
        with suppress(OSError):
            listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, address)


class EvenLoop(uvloop.Loop):
    """uvloop with servers that accept only their share of connections from a given socket."""

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
        """Does the same as asyncio's method."""
        if sock is None:
            return await super().create_server(
                protocol_factory, host, port, backlog=backlog, **options
            )
        return Acceptor(self, protocol_factory, sock, backlog, own_counts())


class Acceptor:
    """The part of asyncio.Server that uvicorn needs, on a socket that processes may share."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        protocol_factory: Callable[[], asyncio.Protocol],
        listener: socket.socket,
        backlog: int,
        counts: ConnectionCounts | None,
    ) -> None:
        self._loop, self._protocol_factory, self._counts = loop, protocol_factory, counts
        self.make_room: Callable[[], bool] = lambda: False  # closes idle ones
        self._crowded = resource.getrlimit(resource.RLIMIT_NOFILE)[0] - _SPARE
        self._listener = listener.dup()  # they live as long as this server
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
        """Accepts one waiting connection; False if there is none, or no room for it."""
        try:
            connection, _ = self._listener.accept()
        except ConnectionAbortedError:
            return True  # the client disconnected
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
        """Accepts what is waiting, and nothing more."""
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
        pass  # the caller owns the connections
