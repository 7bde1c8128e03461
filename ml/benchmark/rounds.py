"""Runs the contenders in interleaved rounds, so that a busy moment affects all of them."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from threading import Timer
from typing import Any

import torch

from common.programs import python_environment
from ml.benchmark import latency
from ml.benchmark.latency import Job, Measurement, Point, Runtime, median_of_rounds

_TIMEOUT_S = 600.0  # for one reply; torch.compile may compile for minutes
_SIDE, _REPEATS = 2048, 12  # of the matrix product that measures the peak


class WorkerError(RuntimeError):
    """The worker failed, died or took too long; the message says which."""


class Worker:
    """A subprocess that holds one loaded model and times it on request."""

    def __init__(self, job: Job, cache: Path, timeout_s: float = _TIMEOUT_S) -> None:
        """Starts it and waits for its first prediction.

        Args:
            cache: an empty folder for the compiler, so that starts are cold.

        Raises:
            WorkerError: the model cannot be loaded.
        """
        # OpenMP reads its variable only at start-up.
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
            self.cold_load_s: float = self._reply()["cold_load_s"]
        except WorkerError:
            self.close()
            raise

    def time(self, batch: int, seconds: float) -> Point:
        """Latencies of batches for so long; WorkerError if the worker dies."""
        self._send({"batch": batch, "seconds": seconds})
        return Point(**self._reply())

    def finish(self) -> int:
        """Stops it; returns its peak memory in bytes."""
        self._send({})
        memory = int(self._reply()["peak_memory_bytes"])
        self.close()
        return memory

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._errors):
            if pipe:
                with suppress(BrokenPipeError):  # the reply to a request to a dead worker
                    pipe.close()

    def _send(self, message: Mapping[str, Any]) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError as exc:
            raise self._failure() from exc

    def _reply(self) -> dict[str, Any]:
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
        named = [line for line in lines if _names_an_exception(line)]  # warnings may follow
        return WorkerError("failed: " + ([*lines, *named] or ["no message"])[-1][:300])


def _names_an_exception(line: str) -> bool:
    name = line.split(":")[0]
    return name.replace(".", "").isidentifier() and name.endswith(("Error", "Exception", "Failure"))


BUSY = 0.5  # average number of other busy threads above which latencies are unreliable
UNSTEADY = 0.25  # range of a throughput over its rounds, relative to its median


@dataclass(frozen=True)
class Contender:
    """A model file and how to run it, or why it cannot be run here."""

    name: str
    runtime: Runtime
    path: Path
    skipped: str = ""


@dataclass(frozen=True)
class Result:
    """The results of one contender with one number of threads."""

    name: str
    threads: int
    size_bytes: int
    measurement: Measurement | None
    skipped: str  # the reason if there is no measurement

    def gflops(self, flops: int) -> float:
        """Best rate over the batch sizes, in 1e9 operations per second."""
        assert self.measurement is not None
        return flops * max(p.images_per_s for p in self.measurement.points) / 1e9


@dataclass(frozen=True)
class Benchmark:
    """All results, and the machine's limits."""

    processor: str
    load: float  # average number of other busy threads in the minute before
    rounds: int
    flops_per_image: int
    peak_gflops: dict[int, float]  # fp32 matrix product, by number of threads
    results: tuple[Result, ...]

    def to_json(self) -> str:
        """The results as JSON; times in seconds or as named, sizes in bytes."""
        return json.dumps(asdict(self), indent=2) + "\n"

    def warnings(self) -> list[str]:
        """Reasons why the figures may be unreliable."""
        found = []
        if self.load > BUSY:
            found.append(f"the machine was busy (load {self.load:.1f})")
        points = [p for r in self.results if r.measurement for p in r.measurement.points]
        unsteady = sum(point.spread > UNSTEADY for point in points)
        if 4 * unsteady > len(points):
            found.append(
                f"{unsteady} of {len(points)} throughputs ranged by more than {UNSTEADY:.0%} "
                "between rounds"
            )
        return found


def measure_rounds(
    contenders: Sequence[Contender],
    size: tuple[int, int],
    flops: int,
    *,
    threads: Sequence[int],
    batches: Sequence[int],
    seconds: float = 1.0,
    rounds: int = 3,
    progress: Callable[[str], None] = lambda _: None,
) -> Benchmark:
    """Measures every contender with every number of threads, each in a separate process.

    Args:
        size: the input's height and width in pixels.
        flops: operations per image.
        seconds: timing per batch size, over all rounds.
    """
    load = os.getloadavg()[0]
    peaks, results = dict.fromkeys(threads, 0.0), list[Result]()
    for n in threads:
        # Before and after, in case other load was temporary.
        peaks[n] = peak_gflops(n)
        results += _measure(contenders, size, n, batches, seconds, rounds, progress)
        peaks[n] = round(max(peaks[n], peak_gflops(n)), 1)
    return Benchmark(_processor(), round(load, 2), rounds, flops, peaks, tuple(results))


@dataclass
class _Attempt:
    """One contender with one number of threads: its process, and its measurements so far."""

    contender: Contender
    worker: Worker | None = None
    memory_bytes: int = 0
    points: dict[int, list[Point]] = field(default_factory=dict)
    problem: str = ""

    @contextmanager
    def noting_failure(self) -> Iterator[None]:
        """A failure affects only this contender."""
        try:
            yield
        except WorkerError as exc:
            self.problem = str(exc)

    def result(self, threads: int) -> Result:
        measurement = None
        if self.worker and not self.problem:
            points = tuple(median_of_rounds(found) for found in self.points.values())
            measurement = Measurement(self.worker.cold_load_s, self.memory_bytes, points)
        size_bytes = self.contender.path.stat().st_size
        return Result(self.contender.name, threads, size_bytes, measurement, self.problem)


def _measure(
    contenders: Sequence[Contender],
    size: tuple[int, int],
    threads: int,
    batches: Sequence[int],
    seconds: float,
    rounds: int,
    progress: Callable[[str], None],
) -> list[Result]:
    """Loads all contenders with one number of threads, then times them in turn."""
    attempts = [_Attempt(c, problem=c.skipped) for c in contenders]
    with tempfile.TemporaryDirectory(prefix="kiln-benchmark-") as cache:
        try:
            for index, attempt in enumerate(attempts):
                if attempt.problem:
                    continue
                contender = attempt.contender
                progress(f"loading {contender.name}, threads: {threads}")
                job = Job(contender.runtime, str(contender.path.absolute()), threads, size)
                with attempt.noting_failure():
                    attempt.worker = Worker(job, Path(cache, str(index)))
            for number in range(rounds):
                progress(f"round {number + 1} of {rounds}, threads: {threads}")
                for batch in batches:
                    for attempt in attempts:
                        if attempt.worker and not attempt.problem:
                            with attempt.noting_failure():
                                point = attempt.worker.time(batch, seconds / rounds)
                                attempt.points.setdefault(batch, []).append(point)
            for attempt in attempts:
                if attempt.worker and not attempt.problem:
                    with attempt.noting_failure():
                        attempt.memory_bytes = attempt.worker.finish()
        finally:
            for attempt in attempts:
                if attempt.worker:
                    attempt.worker.close()
    return [attempt.result(threads) for attempt in attempts]


def peak_gflops(threads: int) -> float:
    """Best rate of an fp32 matrix product on this CPU, in 1e9 operations per second."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        a, b = torch.randn(2, _SIDE, _SIDE).unbind()
        seconds = []
        for _ in range(_REPEATS):
            start = time.perf_counter()
            torch.mm(a, b)
            seconds.append(time.perf_counter() - start)
    finally:
        torch.set_num_threads(before)
    return 2 * _SIDE**3 / min(seconds) / 1e9


def _processor() -> str:
    name = str(torch.cpu.get_capabilities().get("cpu_name") or "CPU")
    return f"{name}, {os.cpu_count()} cores"
