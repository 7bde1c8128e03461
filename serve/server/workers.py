"""Worker processes: graceful shutdown, and replacement of those that died."""

import asyncio
import contextlib
import json
import logging
import multiprocessing
import signal
import socket
import sys
import time
from multiprocessing.connection import Connection, wait

import uvicorn
from uvicorn.supervisors.multiprocess import Multiprocess, Process

from common.model.artifact import ArtifactError
from serve.errors import NotReady, problem_of
from serve.server.connections import Acceptor, refuse_newcomers
from serve.server.protocol import Connections
from serve.settings import SettingsError

MISTAKE = 2  # exit code for invalid settings or models

_HANDSHAKE_S = 0.25  # for connections being established at shutdown
_TURN_S = 0.25  # interval of health checks
# A process that does not respond for this long is replaced; busy machines may start slowly.
SILENT_S = 60
_MOST_FAILURES = 3  # consecutive processes that end before they serve
logger = logging.getLogger(__name__)


class Server(uvicorn.Server):
    """uvicorn's server, which at shutdown answers everyone who has connected."""

    server_state: Connections

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.server_state = Connections()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Starts up as uvicorn does."""
        await super().startup(sockets)
        for server in self.servers:
            if isinstance(server, Acceptor):
                server.make_room = self.server_state.make_room

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Shuts down as uvicorn does, after a moment in which connections being established are
        accepted.
        """
        self.server_state.is_ending = True
        if multiprocessing.parent_process() is None:
            for listener in sockets or ():
                refuse_newcomers(listener)
        await asyncio.sleep(_HANDSHAKE_S)
        await super().shutdown(sockets)


class Worker(Process):
    """uvicorn's worker process with non-blocking health checks."""

    has_served = False
    reason = ""  # the reason why it ended, if it reported one
    _asked_at: float | None = None

    @property
    def server(self) -> uvicorn.Server:
        """This process's server; the parent has none."""
        if self._server is None:
            self._server = Server(self.config)
        return self._server

    def target(self, sockets: list[socket.socket] | None = None) -> None:
        """The process's main function."""
        try:
            super().target(sockets)
        except (ArtifactError, SettingsError) as exc:
            self.child_conn.send(str(exc))
            sys.exit(MISTAKE)
        except Exception as exc:
            self.child_conn.send(f"{type(exc).__name__}: {exc}")
            logger.exception("a process failed")
            sys.exit(1)

    def is_well(self) -> bool:
        """Whether it runs and has responded in time."""
        now, is_alive = time.monotonic(), self.process.is_alive()
        with contextlib.suppress(OSError, EOFError):
            while self.parent_conn.poll():
                self._hear(self.parent_conn.recv())
            if self._asked_at is None and is_alive:
                self.parent_conn.send(b"ping")
                self._asked_at = now
        return is_alive and now - (self._asked_at or now) < SILENT_S

    def _hear(self, said: bool | str) -> None:
        if isinstance(said, str):
            self.reason = said
        else:
            self._asked_at, self.has_served = None, self.has_served or said

    def _healthcheck(self, timeout: float) -> bool | None:
        """Whether it has started; None if it does not respond within `timeout` seconds, or has
        ended.

        The parent holds both ends of the pipe, so the process's exit has to be polled as well.
        """
        try:
            self.parent_conn.send(b"ping")
            awaited: list[Connection | int] = [self.parent_conn, self.process.sentinel]
            if self.parent_conn not in wait(awaited, timeout):
                return None
            self._hear(self.parent_conn.recv())
        except (OSError, EOFError):
            return None
        return self.has_served

    @property
    def end(self) -> str:
        """The way in which it ended, in words."""
        code = self.process.exitcode or 0
        ended = f"exit code {code}" if code >= 0 else signal.Signals(-code).name
        return f"{ended}: {self.reason}" if self.reason else ended


class Supervisor(Multiprocess):
    """Replaces dead processes; gives up if they keep dying before they serve.

    While no process serves, callers get 503 instead of waiting.
    """

    processes: list[Worker]  # type: ignore[assignment]

    def __init__(self, config: uvicorn.Config, listener: socket.socket, version: str) -> None:
        super().__init__(config, [listener])
        self._listener, self._version = listener, version
        self._failures = 0
        self._last_failure: Worker | None = None
        self._outdated: list[int] = []  # slots of processes to replace
        self._successor: Worker | None = None  # the starting successor of the first slot
        self._retiring: Worker | None = None  # the process that drains

    def run(self) -> int:  # type: ignore[override]
        """Runs until a signal, or until processes cannot be started; returns the exit code."""
        self.init_processes()
        while not self.should_exit.wait(_TURN_S):
            self.handle_signals()
            self.keep_subprocess_alive()
            self._go_on_restarting()
        self.processes += [one for one in (self._successor, self._retiring) if one]
        self.terminate_all()
        self.join_all()
        if self._failures < _MOST_FAILURES or self._last_failure is None:
            return 0
        said = f"{self._failures} processes in a row ended before they served"
        sys.stderr.write(f"kiln: error: {said}, the last with {self._last_failure.end}\n")
        return max(1, self._last_failure.exitcode or 0)

    def terminate_all(self) -> None:
        """Drains and stops all processes."""
        refuse_newcomers(self._listener)
        super().terminate_all()
        self._listener.close()

    def keep_subprocess_alive(self) -> None:
        """Checks each process once."""
        for place, worker in enumerate(self.processes):
            if self.should_exit.is_set():
                return
            had_served = worker.has_served
            if not worker.is_well():
                self._replace(place, worker)
            elif worker.has_served and not had_served:
                self._failures = 0
        if self._failures and not any(worker.has_served for worker in self.processes):
            self._turn_away()

    def handle_hup(self) -> None:
        """Rolling restart, one step per turn: uvicorn's own handler blocks for each start and stop,
        and checks no process meanwhile.
        """
        self._outdated = [*range(len(self.processes))]

    def _go_on_restarting(self) -> None:
        """One non-blocking step."""
        if self._retiring is not None:
            if self._retiring.process.is_alive():
                return  # there is memory, and a slot in the counts, for one additional process
            self._retiring.join()
            self._retiring = None
        if self._outdated and self._outdated[0] >= len(self.processes):
            self._outdated.clear()  # SIGTTOU has ended the others
        if self._successor is None:
            if self._outdated:
                self._successor = Worker(self.config, self.sockets)
                self._successor.start()
        elif not self._successor.is_well():
            self._successor.kill()
            self._successor.join()
            facts = {"pid": self._successor.pid, "end": self._successor.end}
            logger.error("a successor did not serve: the processes before it stay", extra=facts)
            self._successor = None
            self._outdated.clear()
        elif self._successor.has_served and self._outdated:
            place = self._outdated.pop(0)
            self._retiring, self.processes[place] = self.processes[place], self._successor
            self._successor = None
            self._retiring.terminate()

    def _replace(self, place: int, worker: Worker) -> None:
        worker.kill()
        worker.join()
        facts = {"pid": worker.pid, "end": worker.end}
        if worker.has_served:
            logger.error("a process died and is replaced", extra=facts)
        else:
            self._failures, self._last_failure = self._failures + 1, worker
            logger.error("a process ended before it served", extra=facts)
            if self._failures == _MOST_FAILURES:
                self.should_exit.set()
                return
        successor = Worker(self.config, self.sockets)
        successor.start()
        self.processes[place] = successor

    def _turn_away(self) -> None:
        """Answers 503 in place of the processes."""
        self._listener.setblocking(False)
        with contextlib.suppress(OSError):
            while True:
                caller, _ = self._listener.accept()
                with caller, contextlib.suppress(OSError):
                    caller.settimeout(_TURN_S)
                    caller.recv(1 << 16)
                    caller.sendall(self._not_ready())

    def _not_ready(self) -> bytes:
        assert self._last_failure is not None
        detail = f"no process serves; the last ended with {self._last_failure.end}"
        problem = problem_of(NotReady, detail, self._version)
        body = json.dumps(problem).encode()
        fields = [
            "HTTP/1.1 503 Service Unavailable",
            "content-type: application/problem+json",
            f"content-length: {len(body)}",
            "connection: close",
            "retry-after: 1",
            f"x-request-id: {problem['request_id']}",
            f"x-model-version: {self._version}",
            "x-content-type-options: nosniff",
        ]
        return "\r\n".join([*fields, "", ""]).encode() + body
