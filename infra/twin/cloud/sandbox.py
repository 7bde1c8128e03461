"""One execution environment: a function's process, its Runtime API, and its log lines."""

from __future__ import annotations

import os
import select
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from infra.twin.cloud.runtime_api import FunctionError, Invocation, RuntimeApi, runtime_api

INIT_LIMIT_S = 10.0  # Lambda's limit on initialisation
_SHUTDOWN_S = 0.3  # between SIGTERM and SIGKILL

# Starts the process; stdout is a pipe that also carries stderr.
Start = Callable[[Mapping[str, str]], subprocess.Popen[bytes]]


@dataclass(frozen=True)
class Line:
    """A log line of the function, and when it was read."""

    time_ms: int
    text: str


class Sandbox:
    """Processes one event at a time; unusable after an error that ends the process."""

    def __init__(self, start: Start, variables: Mapping[str, str]) -> None:
        """Starts the process without waiting for it."""
        self.idle_since = time.monotonic()
        self.init_s: float | None = None  # included in the first report only
        self._news = threading.Event()  # it requests events, failed to start, or has exited
        self._call: Invocation | None = None
        self._lines: list[Line] = []
        self._rest = b""
        self._reading = threading.Lock()
        self._serving = runtime_api()
        self.api: RuntimeApi = self._serving.__enter__()
        self.api.on_started = self._news.set
        self._started = time.monotonic()
        try:
            self.process = start({**variables, "AWS_LAMBDA_RUNTIME_API": self.api.address})
        except BaseException:
            self._serving.__exit__(None, None, None)
            raise
        assert self.process.stdout, "launch with stdout=PIPE, stderr=STDOUT"
        self._pipe = self.process.stdout.fileno()
        os.set_blocking(self._pipe, False)
        self._reader = threading.Thread(target=self._read_until_it_ends, daemon=True)
        self._reader.start()

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def wait_until_started(self, timeout_s: float) -> None:
        """Raises FunctionError if it reports an error, ends, or takes too long.

        Lambda restarts initialisation after 10 s with the time of a call, `timeout_s`; here
        a single start has both.
        """
        limit_s = INIT_LIMIT_S + timeout_s
        self._news.wait(limit_s)
        if self.api.waits.is_set():
            self.init_s = time.monotonic() - self._started
        elif self.api.init_errors:
            raise self.api.init_errors[0]
        elif not self.alive or self._news.is_set():
            raise FunctionError({"errorMessage": self._how_it_ended()}, "Runtime.ExitError")
        else:
            message = f"Init phase timed out after {limit_s:.2f} seconds"
            raise FunctionError({"errorMessage": message}, "Sandbox.Timedout")

    def run(self, call: Invocation, limit_s: float) -> bytes:
        """The function's result.

        Raises:
            FunctionError: from the function, or from Lambda if the process exited or was killed.
        """
        self._call = call
        try:
            if not self.alive:
                self._fail(call)
            self.api.hand(call)
            if not call.answered.wait(limit_s):
                self.api.abandon(call)
                self.kill()
                message = f"Task timed out after {limit_s:.2f} seconds"
                raise FunctionError({"errorMessage": message}, "Sandbox.Timedout")
            if call.error:
                raise call.error
            return call.answer
        finally:
            self._call = None

    def take_lines(self) -> list[Line]:
        """New log lines; each is returned once."""
        with self._reading:
            self._read()
            lines, self._lines = self._lines, []
        return lines

    def memory_mb(self) -> int:
        """The largest resident set of its processes so far."""
        pids, peak = [self.process.pid], 0
        while pids:
            pid = pids.pop()
            try:
                status = Path(f"/proc/{pid}/status").read_text()
                pids += map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
            except OSError:
                continue
            for line in status.splitlines():
                if line.startswith("VmHWM:"):
                    peak = max(peak, int(line.split()[1]))
        return peak // 1024

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        """SIGTERM, a delay, SIGKILL, as Lambda shuts an environment down."""
        self.process.terminate()
        self.api.close()
        try:
            self.process.wait(_SHUTDOWN_S)
        except subprocess.TimeoutExpired:
            self.kill()
        self._reader.join()
        self._serving.__exit__(None, None, None)
        assert self.process.stdout
        self.process.stdout.close()

    # ---- Log output ----

    def _read_until_it_ends(self) -> None:
        poll = select.poll()
        poll.register(self._pipe, select.POLLIN)
        while True:
            poll.poll()
            with self._reading:
                if not self._read():
                    break
        self.process.wait()
        self._news.set()
        if call := self._call:
            self._fail(call)

    def _read(self) -> bool:
        """Reads the pipe; False at end of file. The caller holds the lock."""
        while True:
            try:
                data = os.read(self._pipe, 1 << 16)
            except BlockingIOError:
                return True
            now = int(time.time() * 1000)
            *lines, self._rest = (self._rest + data).split(b"\n")
            if not data and self._rest:
                lines, self._rest = [self._rest], b""
            self._lines += [Line(now, line.decode("utf-8", "replace")) for line in lines]
            if not data:
                return False

    def _fail(self, call: Invocation) -> None:
        if not call.answered.is_set():
            call.error = FunctionError({"errorMessage": self._how_it_ended()}, "Runtime.ExitError")
            call.answered.set()

    def _how_it_ended(self) -> str:
        code = self.process.wait()
        how = f"signal: {-code}" if code < 0 else f"exit status {code}"
        return f"Runtime exited with error: {how}" if code else "Runtime exited without a reason"
