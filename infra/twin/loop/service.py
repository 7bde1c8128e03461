"""The service in a process of its own, as the story starts it: captures everything, logs JSON."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.programs import free_port
from infra.release.aws.function import REPLAY, trace_id
from infra.twin.story import Failed

_START_S, _END_S, _TIMEOUT_S = 60.0, 30.0, 30.0


@dataclass(frozen=True)
class Alarm:
    """A log line about drift that was raised or cleared."""

    time_s: float  # since 1970
    model: str
    raised: bool


@dataclass
class Running:
    """A service that answers.

    Attributes:
        name: of the model, for people.
        model: its version.
        classes: in the model's order.
        lines: what it has logged so far.
    """

    name: str
    address: str
    key: str
    model: str = ""
    accuracy: float = 0.0
    classes: tuple[str, ...] = ()
    lines: list[str] = field(default_factory=list)
    alarms: list[Alarm] = field(default_factory=list)

    def ask(
        self,
        method: str,
        path: str,
        document: Any = None,
        connection: http.client.HTTPConnection | None = None,
        *,
        is_replay: bool = False,
    ) -> tuple[int, Any]:
        """Status and JSON of an answer; OSError or HTTPException where there is none.

        Args:
            is_replay: as the release manager asks: nothing of it is captured.
        """
        made = connection or http.client.HTTPConnection(self.address, timeout=_TIMEOUT_S)
        headers = {"X-API-Key": self.key, "Content-Type": "application/json"}
        if is_replay:
            headers["traceparent"] = f"00-{trace_id(REPLAY)}-{os.urandom(8).hex()}-00"
        body = None if document is None else json.dumps(document).encode()
        try:
            made.request(method, path, body, headers)
            response = made.getresponse()
            return response.status, json.loads(response.read() or b"null")
        finally:
            if connection is None:
                made.close()

    def take(self, line: str) -> None:
        """Keeps a line of its log."""
        self.lines.append(line)
        try:
            said = json.loads(line)
        except ValueError:
            return
        message = said.get("message") if isinstance(said, dict) else None
        if message in ("drift raised", "drift cleared"):
            self.alarms.append(Alarm(time.time(), self.model, message == "drift raised"))


@contextmanager
def serving(
    name: str,
    program: Path,
    model: Path,
    key: tuple[str, str],
    environment: Mapping[str, str],
) -> Iterator[Running]:
    """A service with a model, for as long as the block runs.

    Args:
        program: //serve:api.
        key: an API key and its digest.

    Raises:
        Failed: it does not start.
    """
    port = free_port()
    variables = {
        **os.environ,
        **environment,
        "KILN_MODEL": str(model),
        "KILN_PORT": str(port),
        "KILN_WORKERS": "1",
        "KILN_API_KEYS": key[1],
        "KILN_CAPTURE_SHARE": "1",
        "KILN_CAPTURE_UNSURE": "1",
        "KILN_CAPTURE_AGE_S": "2",
        "KILN_LOG_FORMAT": "json",
        "KILN_DEADLINE_MS": "10000",  # a training takes the cores beside it
    }
    running = Running(name, f"127.0.0.1:{port}", key[0])
    with subprocess.Popen(
        [str(program.absolute())],
        env=variables,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr
        log = process.stderr

        def read() -> None:
            for line in log:
                running.take(line.rstrip("\n"))

        reader = threading.Thread(target=read)
        reader.start()
        try:
            _wait(running, process)
            yield running
        finally:
            process.terminate()
            try:
                process.wait(_END_S)
            except subprocess.TimeoutExpired:
                process.kill()
            reader.join()


def _wait(running: Running, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            said = " ".join(running.lines[-3:])
            raise Failed(f"the service ended with exit code {process.returncode}: {said}")
        try:
            if running.ask("GET", "/ready")[0] == 200:
                _, info = running.ask("GET", "/model/info")
                running.model, running.classes = info["version"], tuple(info["classes"])
                return
        except (OSError, http.client.HTTPException):
            pass
        time.sleep(0.1)
    raise Failed(f"the service was not ready within {_START_S:g} s")


def answers(running: Running, images: Sequence[str], at_once: int = 100) -> list[str]:
    """The class that a service gives each of some images (base64), by whole batches."""
    found: list[str] = []
    for start in range(0, len(images), at_once):
        part = {"images": list(images[start : start + at_once])}
        status, document = running.ask("POST", "/predict/batch", part, is_replay=True)
        if status != 200:
            raise Failed(f"{running.name} answers {status} to a batch: {document}")
        found += [str(result["prediction"]["label"]) for result in document["results"]]
    return found
