"""Connections in equal shares for the server's processes.

They listen at one socket, and whichever wakes first takes all that waits there: of 64 callers who
stay connected, one process of two may get 50, who wait while the other process idles. Here each
takes one at a time, and lets those with fewer connections go first.
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

import uvloop

_MEMORY = "KILN_TALLY"  # the variable by which processes learn from their parent where it is
_COUNT_BYTES = 4
_NOBODY = -1
_COURTESY_S = 1e-3  # for those with fewer connections to take one; they may be busy
_EXHAUSTED_S = 1.0  # without accepting, where the machine has no files or memory for more

logger = logging.getLogger(__name__)


class Tally:
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


def share_tally(processes: int) -> None:
    """In the parent, before it starts them: the memory, which ends with the parent."""
    if hasattr(os, "memfd_create"):  # Linux; elsewhere chance decides
        file = os.memfd_create("kiln-tally")
        os.write(file, _NOBODY.to_bytes(_COUNT_BYTES, "little", signed=True) * processes)
        os.environ[_MEMORY] = f"/proc/{os.getpid()}/fd/{file}"


@cache
def own_tally() -> Tally | None:
    """Of this process, if its parent has others to share connections with."""
    path = os.environ.get(_MEMORY)
    if path is None:
        return None
    try:
        return Tally(path)
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
        """As asyncio's, at a socket that is shared with other processes or for this one alone."""
        tally = own_tally()
        if tally is None or sock is None:
            return await super().create_server(
                protocol_factory, host, port, sock=sock, backlog=backlog, **options
            )
        return _EvenServer(self, protocol_factory, sock, backlog, tally)


class _EvenServer:
    """What uvicorn needs of asyncio.Server."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        protocol_factory: Callable[[], asyncio.Protocol],
        listener: socket.socket,
        backlog: int,
        tally: Tally,
    ) -> None:
        self._loop, self._protocol_factory, self._tally = loop, protocol_factory, tally
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
        if self._tally.others_have_fewer:
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
