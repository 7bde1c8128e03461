"""The processes that serve: what they answer before they end, and who replaces one that died."""

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

MISTAKE = 2  # exit code where a setting or the model is wrong

_HANDSHAKE_S = 0.25  # for connections that are being made when the service ends
_TURN_S = 0.25  # between two looks at the processes
# A process that says nothing for so long is replaced; a busy machine may need long to start one.
SILENT_S = 60
_MOST_FAILURES = 3  # of processes in a row that end before they serve
logger = logging.getLogger(__name__)


class Server(uvicorn.Server):
    """uvicorn's; when it ends, whoever has connected is answered."""

    server_state: Connections

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.server_state = Connections()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's."""
        await super().startup(sockets)
        for server in self.servers:
            if isinstance(server, Acceptor):
                server.make_room = self.server_state.make_room

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's, behind a moment in which those who are connecting are let in."""
        self.server_state.is_ending = True
        if multiprocessing.parent_process() is None:
            for listener in sockets or ():
                refuse_newcomers(listener)
        await asyncio.sleep(_HANDSHAKE_S)
        await super().shutdown(sockets)


class Worker(Process):
    """uvicorn's worker process, which is looked at without waiting for it."""

    has_served = False
    reason = ""  # why it ended, if it said so
    _asked_at: float | None = None

    @property
    def server(self) -> uvicorn.Server:
        """Of this process; the parent has none."""
        if self._server is None:
            self._server = Server(self.config)
        return self._server

    def target(self, sockets: list[socket.socket] | None = None) -> None:
        """What the process does."""
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
        """Whether it runs and has given a sign of life in time."""
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
        """Whether it has started; None if it does not answer within `timeout` seconds, or ends.

        It holds both ends of the pipe, so that its end has to be waited for as well.
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
        """How it ended, in words."""
        code = self.process.exitcode or 0
        ended = f"exit code {code}" if code >= 0 else signal.Signals(-code).name
        return f"{ended}: {self.reason}" if self.reason else ended


class Supervisor(Multiprocess):
    """Replaces processes that died; ends if they die again and again before they serve.

    Meanwhile, with nobody to serve, callers are told so instead of being left to wait.
    """

    processes: list[Worker]  # type: ignore[assignment]

    def __init__(self, config: uvicorn.Config, listener: socket.socket, version: str) -> None:
        super().__init__(config, [listener])
        self._listener, self._version = listener, version
        self._failures = 0
        self._last_failure: Worker | None = None
        self._outdated: list[int] = []  # places of processes that are to be replaced
        self._successor: Worker | None = None  # which starts, to take the first of these
        self._retiring: Worker | None = None  # which ends, with its last answers

    def run(self) -> int:  # type: ignore[override]
        """Until a signal, or processes cannot be started; the exit code."""
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
        """Has the processes answer those who have connected, and end."""
        refuse_newcomers(self._listener)
        super().terminate_all()
        self._listener.close()

    def keep_subprocess_alive(self) -> None:
        """Looks at each process once."""
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
        """Replaces all processes one by one, in the turns to come: uvicorn's own way waits for each
        to start and to end, and looks at none meanwhile."""
        self._outdated = [*range(len(self.processes))]

    def _go_on_restarting(self) -> None:
        """One step, which waits for nothing."""
        if self._retiring is not None:
            if self._retiring.process.is_alive():
                return  # there is memory, and a place in the counts, for one process more
            self._retiring.join()
            self._retiring = None
        if self._outdated and self._outdated[0] >= len(self.processes):
            self._outdated.clear()  # SIGTTOU has ended the rest
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
        """Answers whoever waits in place of the processes."""
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
