"""The process that mirrors a run folder to W&B, seen from outside."""

import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import asdict

from ml.child_process import python_environment
from ml.run_folder import RunFolder
from ml.tracking.wandb_settings import FOLDER, Destination, environment

_LOOK_S = 0.2


class WandbProcess:
    """Starts `ml.tracking.wandb_follow` for a run folder and listens to what it says.

    Attributes:
        state: the last word: starting, connecting, mirroring, failed or done.
        detail: the address of the run, or why it failed; may be empty.
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
                    *(sys.executable, "-m", "ml.tracking.wandb_follow"),
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
        """Tells it that the run has ended, waits, then stops it with everything it started.

        Args:
            finished: the run came to its end; else it broke.
            patience_s: how long it may write and send.
            answer_s: how long, from its first attempt, the server may take to answer at all.
        """
        assert self._process.stdin is not None
        with suppress(OSError):  # it has ended already
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
        """Ends it now."""
        with suppress(ProcessLookupError):  # W&B's own service has the same group
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
