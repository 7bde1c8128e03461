"""The HTTP server as a process of its own, and its protocol alone, driven by bytes."""

import asyncio
import http.client
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import uvicorn

from serve.server.protocol import Connections, TimedProtocol
from tests.helpers.waiting import PATIENCE_S, free_port, wait_until
from tests.serve.serving import MODEL


class Server:
    """The program in a process of its own."""

    def __init__(self, port: int, process: "subprocess.Popen[str]") -> None:
        self.port, self.process = port, process

    def ask(self, method: str, path: str, body: str | None = None) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)
        connection.request(method, path, body, {"content-type": "application/json"})
        response = connection.getresponse()
        answer = json.loads(response.read())
        connection.close()
        return response.status, answer

    def is_up(self) -> bool:
        try:
            return self.ask("GET", "/ready")[0] == 200
        except OSError:
            return False

    def workers(self) -> list[int]:
        """Process ids of those that serve."""
        tasks = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        children = [int(pid) for pid in tasks.read_text().split()]
        found = []
        for pid in children:
            with suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
                if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    found.append(pid)
        return found


@contextmanager
def running(workers: int = 1, **variables: str) -> Iterator[Server]:
    port = free_port()
    process = program(KILN_PORT=str(port), KILN_WORKERS=str(workers), **variables)
    server = Server(port, process)
    try:
        wait_until(server.is_up)
        yield server
    finally:
        process.terminate()
        try:
            process.communicate(timeout=PATIENCE_S)
        finally:
            process.kill()


def program(*arguments: str, **variables: str) -> "subprocess.Popen[str]":
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "KILN_MODEL": str(MODEL)}
    return subprocess.Popen(
        [sys.executable, "-m", "serve.server.server", *arguments],
        env=environment | variables,
        stderr=subprocess.PIPE,
        text=True,
    )


class Transport(asyncio.Transport):
    """Keeps what was written to it."""

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
    """What the protocol answers to data that come in these parts, before the caller leaves.

    The application must answer a request that is whole in a few turns of the loop.
    """
    state = Connections()
    protocol = TimedProtocol(config, state, {})
    transport = Transport()
    protocol.connection_made(transport)
    for part in parts:
        if not transport.closing:
            protocol.data_received(part)
        for _ in range(3):  # what is whole is answered, as it may be before the next part
            await asyncio.sleep(0)
    for _ in range(20):
        if not state.tasks:
            break
        await asyncio.sleep(0)
    protocol.connection_lost(None)
    return transport.said
