"""What the story runs: commands that a user types, and the service in a process of its own."""

from __future__ import annotations

import http.client
import json
import os
import shlex
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
from infra.twin.deployment import run_command
from infra.twin.story import Failed, Narrator

NAMES = ("train", "stream", "registry", "live", "retrain", "golden-images", "api")


@dataclass(frozen=True)
class Done:
    """The outcome of a command."""

    exit_code: int
    output: str


@dataclass(frozen=True)
class Programs:
    """The programs, and the workspace in which they work.

    Attributes:
        paths: by name, all of `NAMES`.
        workspace: holds runs, registry and captures.
    """

    paths: Mapping[str, Path]
    workspace: Path
    narrator: Narrator

    @property
    def captures(self) -> Path:
        """Where the service captures."""
        return self.workspace / "captures"

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables of every program, which keep all files in the workspace."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("KILN_", "RUNFILES"))}
        cache = {k: v for k, v in os.environ.items() if k == "KILN_CACHE"}
        return {
            **kept,
            **cache,
            "BUILD_WORKSPACE_DIRECTORY": str(self.workspace),
            "BUILD_WORKING_DIRECTORY": str(self.workspace),
            "KILN_CAPTURE": str(self.captures),
            "KILN_REGISTRY": str(self.workspace / "registry"),
            "KILN_SIGNING_KEY": str(self.workspace / "keys" / "model.key"),
            "KILN_MODEL_KEY": str(self.workspace / "keys" / "model.pub"),
            "KILN_ACTOR": "the twin",
        }

    def run(
        self,
        name: str,
        *arguments: str | Path,
        fine: Sequence[int] = (0,),
    ) -> Done:
        """Runs a command to its end and shows its output.

        Raises:
            Failed: its exit code is not among those that are fine.
        """
        words = [str(word) for word in arguments]
        self.narrator.say(f"$ {name} {shlex.join(words)}")
        command, said = [str(self.paths[name].absolute()), *words], list[str]()
        exit_code, output = run_command(command, self.environment, self.workspace, said.append)
        if exit_code not in fine:
            told = "\n".join([*output.splitlines()[-5:], *said[-8:]])
            raise Failed(f"{name} ended with exit code {exit_code}:\n{told}")
        return Done(exit_code, output)

    def asked(self, name: str, *arguments: str | Path, fine: Sequence[int] = (0,)) -> Any:
        """The JSON that a command prints."""
        return json.loads(self.run(name, *arguments, fine=fine).output)

    def newest_run(self) -> Path:
        """The folder of the newest training."""
        return max((self.workspace / "runs").iterdir(), key=lambda path: path.stat().st_mtime)


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
