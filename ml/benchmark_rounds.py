"""Measures contenders in turn, round after round, so that a busy moment falls on all of them."""

import json
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from ml.benchmark_worker import Worker, WorkerError
from ml.latency import Job, Measurement, Point, Runtime, median_of_rounds
from ml.roofline import peak_gflops

BUSY = 0.5  # average number of other busy threads that spoils latencies
UNSTEADY = 0.25  # range of a throughput over its rounds, as a share of its median


@dataclass(frozen=True)
class Contender:
    """A model file and how to run it, or why it cannot be run here."""

    name: str
    runtime: Runtime
    path: Path
    skipped: str = ""


@dataclass(frozen=True)
class Result:
    """One contender with one number of threads."""

    name: str
    threads: int
    size_bytes: int
    measurement: Measurement | None
    skipped: str  # why there is no measurement

    def gflops(self, flops: int) -> float:
        """Best speed over the batch sizes, in 1e9 operations a second."""
        assert self.measurement is not None
        return flops * max(p.images_per_s for p in self.measurement.points) / 1e9


@dataclass(frozen=True)
class Benchmark:
    """All results and the machine's limits."""

    processor: str
    load: float  # average number of other busy threads in the minute before
    rounds: int
    flops_per_image: int
    peak_gflops: dict[int, float]  # fp32 matrix product, by number of threads
    results: tuple[Result, ...]

    def to_json(self) -> str:
        """For tools; times in seconds or as named, sizes in bytes."""
        return json.dumps(asdict(self), indent=2) + "\n"

    def warnings(self) -> list[str]:
        """Why the figures should not be trusted, if they should not."""
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
    """Measure every contender with every number of threads, each in a process of its own.

    Args:
        size: height and width of the input in pixels.
        flops: operations for one image.
        seconds: of timing for each batch size, over all rounds.
    """
    load = os.getloadavg()[0]
    peaks, results = dict.fromkeys(threads, 0.0), list[Result]()
    for n in threads:
        # Before and after, in case something else kept the machine busy once.
        peaks[n] = peak_gflops(n)
        results += _all(contenders, size, n, batches, seconds, rounds, progress)
        peaks[n] = round(max(peaks[n], peak_gflops(n)), 1)
    return Benchmark(_processor(), round(load, 2), rounds, flops, peaks, tuple(results))


def _all(
    contenders: Sequence[Contender],
    size: tuple[int, int],
    threads: int,
    batches: Sequence[int],
    seconds: float,
    rounds: int,
    progress: Callable[[str], None],
) -> list[Result]:
    """With one number of threads: load one after the other, then time in turn."""
    workers, problems = dict[str, Worker](), dict[str, str]()
    points: dict[str, dict[int, list[Point]]] = {c.name: {} for c in contenders}
    memory = dict[str, int]()
    with tempfile.TemporaryDirectory(prefix="kiln-benchmark-") as cache:
        try:
            for index, c in enumerate(contenders):
                if c.skipped:
                    problems[c.name] = c.skipped
                    continue
                progress(f"loading {c.name}, threads: {threads}")
                job = Job(c.runtime, str(c.path.absolute()), threads, size)
                with _noting(problems, c.name):
                    workers[c.name] = Worker(job, Path(cache, str(index)))
            for number in range(rounds):
                progress(f"round {number + 1} of {rounds}, threads: {threads}")
                for batch in batches:
                    for name in [name for name in workers if name not in problems]:
                        with _noting(problems, name):
                            point = workers[name].time(batch, seconds / rounds)
                            points[name].setdefault(batch, []).append(point)
            for name in [name for name in workers if name not in problems]:
                with _noting(problems, name):
                    memory[name] = workers[name].finish()
        finally:
            for worker in workers.values():
                worker.close()
    return [
        Result(
            c.name,
            threads,
            c.path.stat().st_size,
            None
            if c.name in problems
            else Measurement(
                workers[c.name].cold_load_s,
                memory[c.name],
                tuple(median_of_rounds(found) for found in points[c.name].values()),
            ),
            problems.get(c.name, ""),
        )
        for c in contenders
    ]


class _noting:
    """Keeps a contender's failure as its problem: the others go on."""

    def __init__(self, problems: dict[str, str], name: str) -> None:
        self._problems, self._name = problems, name

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if not isinstance(error, WorkerError):
            return False
        self._problems[self._name] = str(error)
        return True


def _processor() -> str:
    name = str(torch.cpu.get_capabilities().get("cpu_name") or "CPU")
    return f"{name}, {os.cpu_count()} cores"
