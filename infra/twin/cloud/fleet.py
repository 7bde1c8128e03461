"""Execution environments of all functions: reused while warm, started on demand, reaped when
idle.
"""

from __future__ import annotations

import subprocess
import threading
import time
import uuid
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

from infra.twin.cloud.sandbox import Sandbox
from infra.twin.cloud.targets import Target

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
