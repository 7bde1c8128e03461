"""Starts the W&B mirror of a run, and waits for it only briefly at the end.

Does not import W&B, which runs in a separate process: `ml.tracking.wandb_mirror`.
"""

import json
import math
import netrc
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from urllib.parse import urlsplit

from rich.console import Console

from common.programs import python_environment
from ml.runs.folder import RunFolder

FOLDER = "wandb"  # inside a run folder: everything that W&B writes
SYNCED = f"{FOLDER}/synced.json"  # the run's address, once everything was sent
_LOOK_S = 0.2
_ANSWER_S = 10.0  # in which an available server responds


@dataclass(frozen=True)
class Destination:
    """The run's place on the server.

    Attributes:
        project: created if missing.
        entity: a user or team; None is the key's default.
        group: for related runs, such as the trials of a sweep.
        tags: for filtering.
        notes: a sentence for people.
    """

    project: str
    entity: str | None = None
    group: str | None = None
    tags: tuple[str, ...] = ()
    notes: str | None = None


def has_key() -> bool:
    """Whether there is a key for the server, in WANDB_API_KEY or in ~/.netrc; it may be invalid."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    try:
        return netrc.netrc().authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def choose_mode(asked: str) -> str:
    """``online`` or ``offline``; auto is online if there is a key."""
    if asked == "auto":
        return "online" if has_key() else "offline"
    return asked


def environment(run_folder: Path) -> dict[str, str]:
    """Variables that keep all files of W&B inside a run folder."""
    home = run_folder / FOLDER
    return {
        "WANDB_DIR": str(run_folder),  # W&B appends its own name
        "WANDB_DATA_DIR": str(home / "data"),
        "WANDB_ARTIFACT_DIR": str(home / "artifacts"),
        "WANDB_CACHE_DIR": str(home / "cache"),
        "WANDB_CONFIG_DIR": str(home / "config"),
        "WANDB_CREDENTIALS_FILE": str(home / "config" / "credentials.json"),
        "WANDB_SILENT": "true",
        "WANDB_ERROR_REPORTING": "false",
    }


class WandbProcess:
    """Starts `ml.tracking.wandb_mirror` for a run folder and reads its status.

    Attributes:
        state: the latest status: starting, connecting, mirroring, failed or done.
        detail: the run's address, or the reason of a failure; may be empty.
    """

    def __init__(self, run: RunFolder, destination: Destination, *, online: bool) -> None:
        self.online = online
        self.state, self.detail = "starting", ""
        self._state_since = time.monotonic()
        folder = run.path / FOLDER
        folder.mkdir(exist_ok=True)
        mode = "online" if online else "offline"
        with (folder / "mirror.log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "ml.tracking.wandb_mirror"),
                    *(str(run.path.absolute()), mode, json.dumps(asdict(destination))),
                ],
                env=python_environment() | environment(run.path.absolute()),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,  # Ctrl-C is for the training
            )
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def end(self, *, finished: bool, patience_s: float, answer_s: float = math.inf) -> None:
        """Signals the end of the run, waits, then kills the process with its children.

        Args:
            finished: whether the run completed.
            patience_s: timeout for writing and sending.
            answer_s: timeout, from its first attempt, for the server's first response.
        """
        assert self._process.stdin is not None
        with suppress(OSError):  # it has exited already
            if finished:
                self._process.stdin.write("finished\n")
            self._process.stdin.close()
        deadline = time.monotonic() + patience_s
        while time.monotonic() < deadline and not self._is_away(answer_s):
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=_LOOK_S)
                break
        self.stop()

    def _is_away(self, answer_s: float) -> bool:
        return self.state == "connecting" and time.monotonic() - self._state_since > answer_s

    def stop(self) -> None:
        """Kills the mirror's process group."""
        with suppress(ProcessLookupError):  # W&B's service is in the same group
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._listener.join()
        assert self._process.stdout is not None
        self._process.stdout.close()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            state, _, detail = line.strip().partition(" ")
            self._state_since = time.monotonic()
            self.state, self.detail = state, detail or self.detail


class WandbLogger:
    """Mirrors a run to W&B while the context is open.

    W&B runs in a separate process that reads the run folder, so neither it nor its server can
    affect training. Whatever was not sent can be sent later, from the folder.

    Args:
        run: the mirrored run.
        console: receives the outcome.
        mode: online, offline, or auto: online if there is a key.
        patience_s: how long the end of a run waits for W&B to write or send.
        project, entity, group, tags, notes: see `Destination`.
    """

    def __init__(
        self,
        run: RunFolder,
        console: Console,
        *,
        mode: str,
        patience_s: float,
        project: str,
        entity: str | None = None,
        group: str | None = None,
        tags: Sequence[str] = (),
        notes: str | None = None,
    ) -> None:
        self._run = run
        self._console = console
        self._patience_s = patience_s
        self._destination = Destination(project, entity, group, tuple(tags), notes)
        self._online = choose_mode(mode) == "online"
        if self._online and not has_key():
            self._say("no key in WANDB_API_KEY or ~/.netrc, so it stays offline")
            self._online = False

    def __enter__(self) -> "WandbLogger":
        self._process = WandbProcess(self._run, self._destination, online=self._online)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._process.end(
            finished=kind is None,
            patience_s=self._patience_s,
            answer_s=_ANSWER_S if self._online else self._patience_s,
        )
        self._report()

    def _report(self) -> None:
        state, detail = self._process.state, self._process.detail
        later = f"send it later: bazel run //ml:wandb_sync -- {self._run.path}"
        if state == "done" and self._online:
            self._say(detail)
        elif state == "done":
            self._say(f"offline, in {self._run.path / FOLDER}; {later}")
        elif state == "failed":
            self._say(f"{detail}; {later}")
        elif state == "connecting":
            self._say(f"no answer from the server; {later}")
        else:
            self._say(f"not done after {self._patience_s:g} s; {later}")

    def _say(self, text: str) -> None:
        self._console.print(f"[bold]W&B:[/] {text}", highlight=False, soft_wrap=True)
