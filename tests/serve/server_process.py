"""The HTTP server as a process of its own."""

import http.client
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from common.programs import free_port
from tests.helpers.waiting import PATIENCE_S, wait_until
from tests.serve.serving import MODEL


class Server:
    """The program in a process of its own."""

    def __init__(self, port: int, process: "subprocess.Popen[str]") -> None:
        self.port, self.process = port, process

    def ask(
        self, method: str, path: str, body: str | None = None, more: Mapping[str, str] | None = None
    ) -> tuple[int, Any]:
        """(status, JSON); `more` are headers."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)
        headers = {"content-type": "application/json", **(more or {})}
        connection.request(method, path, body, headers)
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
