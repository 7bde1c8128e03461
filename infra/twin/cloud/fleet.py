"""Execution environments of all functions: reused while warm, started on demand, reaped when idle.

A sandbox is one of them: a function's process, its Runtime API, and its log lines.
"""

from __future__ import annotations

import os
import select
import subprocess
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from infra.twin.cloud.runtime_api import FunctionError, Invocation, RuntimeApi, runtime_api
from infra.twin.cloud.targets import Target

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


ACCOUNT_LIMIT = 32  # concurrent environments; AWS accounts have 1,000 or more
KEEP_IDLE_S = 120.0
_REAP_EVERY_S = 1.0
_STARTS_AT_A_TIME = 8


class Launch(Protocol):
    """Starts a function's process, with stdout and stderr in one pipe, `process.stdout`."""

    def __call__(
        self, image_digest: str, environment: Mapping[str, str], /
    ) -> subprocess.Popen[bytes]: ...


class Throttled(Exception):
    """All environments that the function or the account may have are busy."""

    def __init__(self, reserved: bool) -> None:
        kind = "ReservedFunction" if reserved else ""
        self.reason = f"{kind}ConcurrentInvocationLimitExceeded"
        super().__init__(self.reason)


@dataclass
class Environment:
    """A sandbox and its log stream's name."""

    sandbox: Sandbox
    target: Target
    log_stream: str

    @property
    def log_group(self) -> str:
        return f"/aws/lambda/{self.target.name}"


class Fleet:
    """Assigns each environment to one call at a time."""

    def __init__(self, launch: Launch, endpoint_url: str, keep_idle_s: float = KEEP_IDLE_S) -> None:
        self._launch, self._endpoint_url, self._keep_idle_s = launch, endpoint_url, keep_idle_s
        self._lock = threading.Lock()
        self._idle: dict[str, list[Environment]] = {}
        self._busy: Counter[str] = Counter()  # by function
        # Linux signals a parent's death when the thread that started the process ends, on which
        # bubblewrap would kill the function (--die-with-parent): these threads stay alive.
        self._starters = ThreadPoolExecutor(_STARTS_AT_A_TIME, "starter")
        self._closing = threading.Event()
        self._reaper = threading.Thread(target=self._reap, daemon=True)
        self._reaper.start()

    def busy(self, function: str) -> int:
        return self._busy[function]

    def environments(self) -> Counter[tuple[str, str]]:
        """Number of warm, idle environments, by function and version."""
        with self._lock:
            idle = [environment for some in self._idle.values() for environment in some]
        return Counter((one.target.name, one.target.version) for one in idle)

    def acquire(self, target: Target) -> Environment:
        """An idle environment of the version, or a new one that is still starting.

        Raises:
            Throttled: the function's or the account's concurrency limit is reached.
        """
        with self._lock:
            reserved = target.concurrency
            if reserved is not None and self._busy[target.name] >= reserved:
                raise Throttled(reserved=True)
            if self._busy.total() >= ACCOUNT_LIMIT:
                raise Throttled(reserved=False)
            self._busy[target.name] += 1
            idle = self._idle.get(target.deployment, [])
            while idle:
                # The most recently used one, so that the others may be reaped.
                environment = idle.pop()
                if environment.sandbox.alive:
                    return environment
                self._close_later(environment)
        try:
            return self._start(target)
        except BaseException:
            with self._lock:
                self._busy[target.name] -= 1
            raise

    def release(self, environment: Environment, target: Target, usable: bool) -> None:
        with self._lock:
            self._busy[target.name] -= 1
            if usable and not self._closing.is_set():
                environment.sandbox.idle_since = time.monotonic()
                self._idle.setdefault(target.deployment, []).append(environment)
                return
        self._close_later(environment)

    def close(self) -> None:
        self._closing.set()
        self._reaper.join()
        with self._lock:
            left = [environment for some in self._idle.values() for environment in some]
            self._idle.clear()
        threads = [self._close_later(environment) for environment in left]
        for thread in threads:
            thread.join()
        self._starters.shutdown()

    def _start(self, target: Target) -> Environment:
        now = datetime.now(UTC)
        stream = f"{now:%Y/%m/%d}/[{target.version}]{uuid.uuid4().hex}"
        variables = {
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_DEFAULT_REGION": target.region,
            "AWS_ENDPOINT_URL": self._endpoint_url,
            "AWS_EXECUTION_ENV": "AWS_Lambda_Image",
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(target.memory_mb),
            "AWS_LAMBDA_FUNCTION_NAME": target.name,
            "AWS_LAMBDA_FUNCTION_VERSION": target.version,
            "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
            "AWS_LAMBDA_LOG_GROUP_NAME": f"/aws/lambda/{target.name}",
            "AWS_LAMBDA_LOG_STREAM_NAME": stream,
            "AWS_REGION": target.region,
            "AWS_SECRET_ACCESS_KEY": "testing",
            "LAMBDA_TASK_ROOT": "/var/task",
            "TZ": ":UTC",
            **target.environment,
        }
        start = self._starters.submit(
            Sandbox, lambda more: self._launch(target.digest, more), variables
        )
        return Environment(start.result(), target, stream)

    def _close_later(self, environment: Environment) -> threading.Thread:
        thread = threading.Thread(target=environment.sandbox.close, daemon=True)
        thread.start()
        return thread

    def _reap(self) -> None:
        while not self._closing.wait(_REAP_EVERY_S):
            oldest = time.monotonic() - self._keep_idle_s
            with self._lock:
                for deployment, idle in self._idle.items():
                    for environment in idle:
                        if environment.sandbox.idle_since < oldest:
                            self._close_later(environment)
                    self._idle[deployment] = [
                        environment
                        for environment in idle
                        if environment.sandbox.idle_since >= oldest
                    ]
