"""A process that holds one loaded model, so that memory and start-up are its alone."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from threading import Timer
from typing import Any

from ml import latency
from ml.child_process import python_environment
from ml.latency import Job, Point

_TIMEOUT_S = 600.0  # for one answer; torch.compile may compile for minutes


class WorkerError(RuntimeError):
    """The child failed, died or took too long; the message says which."""


class Worker:
    """A child that holds one loaded model and times it when asked."""

    def __init__(self, job: Job, cache: Path, timeout_s: float = _TIMEOUT_S) -> None:
        """Start it and wait for the first answer of its model.

        Args:
            cache: an empty folder for the compiler, so that cold is cold.

        Raises:
            WorkerError: the model cannot be loaded.
        """
        # OpenMP reads its variable at the start alone.
        threads = {"OMP_NUM_THREADS": str(job.threads), "TORCHINDUCTOR_CACHE_DIR": str(cache)}
        self._timeout_s = timeout_s
        self._errors = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115 (see close)
        self._process = subprocess.Popen(
            [sys.executable, latency.__file__, json.dumps(asdict(job))],
            env=python_environment() | threads,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )
        try:
            self.cold_load_s: float = self._answer()["cold_load_s"]
        except WorkerError:
            self.close()
            raise

    def time(self, batch: int, seconds: float) -> Point:
        """Latencies of batches for so long; WorkerError if the child does not survive it."""
        self._ask({"batch": batch, "seconds": seconds})
        return Point(**self._answer())

    def finish(self) -> int:
        """End it; the most memory it ever held, in bytes."""
        self._ask({})
        memory = int(self._answer()["peak_memory_bytes"])
        self.close()
        return memory

    def close(self) -> None:
        """End it whatever it does."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._errors):
            if pipe:
                with suppress(BrokenPipeError):  # what was asked of a child that had died
                    pipe.close()

    def _ask(self, message: Mapping[str, Any]) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError as exc:
            raise self._failure() from exc

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        timer = Timer(self._timeout_s, self._process.kill)
        timer.start()
        line = self._process.stdout.readline()
        timed_out = not timer.is_alive()
        timer.cancel()
        if line:
            return dict(json.loads(line))
        failure = WorkerError(f"took longer than {self._timeout_s:g} s") if timed_out else None
        raise failure or self._failure()

    def _failure(self) -> WorkerError:
        self._process.wait()
        self._errors.seek(0)
        lines = [line for line in self._errors.read().splitlines() if line.strip()]
        named = [line for line in lines if _names_an_exception(line)]  # there may be advice below
        return WorkerError("failed: " + ([*lines, *named] or ["no message"])[-1][:300])


def _names_an_exception(line: str) -> bool:
    name = line.split(":")[0]
    return name.replace(".", "").isidentifier() and name.endswith(("Error", "Exception", "Failure"))
