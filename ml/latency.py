"""Measures one model in a process of its own, so that memory and start-up are its alone.

Started by `ml.benchmark` with a `Job` in JSON; prints a `Measurement` in JSON.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Runtime = Literal["eager", "compile", "onnx"]
Answer = Callable[[NDArray[np.uint8]], Any]

_FEWEST_SAMPLES = 5


@dataclass(frozen=True)
class Job:
    """What to measure: a saved `ServingGraph` for PyTorch, an ONNX file for onnxruntime."""

    runtime: Runtime
    path: str
    threads: int
    size: tuple[int, int]  # height, width in pixels
    batches: tuple[int, ...]
    seconds: float  # of timing for each batch size


@dataclass(frozen=True)
class Point:
    """Latency of one batch in milliseconds, throughput in images a second."""

    batch: int
    samples: int
    p50_ms: float
    p95_ms: float
    p99_ms: float
    images_per_s: float


@dataclass(frozen=True)
class Measurement:
    """Cold load runs from the first line of the process, imports included, to the first answer."""

    cold_load_s: float
    peak_memory_bytes: int
    points: tuple[Point, ...]

    @classmethod
    def from_json(cls, text: str) -> "Measurement":
        """Inverse of JSON of `asdict`."""
        values = json.loads(text)
        return cls(**values | {"points": tuple(Point(**point) for point in values["points"])})


def measure(job: Job, started: float) -> Measurement:
    """Load, answer, time.

    Args:
        started: `time.perf_counter()` when the process began.
    """
    answer = _load(job)
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (max(job.batches), *job.size, 3)).astype(np.uint8)
    answer(images[:1])
    cold_load_s = time.perf_counter() - started
    points = tuple(_time(answer, images[:batch], job.seconds) for batch in job.batches)
    return Measurement(cold_load_s, peak_memory_bytes(), points)


def summarise(batch: int, seconds: Sequence[float]) -> Point:
    """Percentiles of the latencies of a batch size; throughput from their mean."""
    p50, p95, p99 = (float(p) for p in np.percentile(seconds, (50, 95, 99)) * 1e3)
    return Point(batch, len(seconds), p50, p95, p99, batch / float(np.mean(seconds)))


def peak_memory_bytes() -> int:
    """Most memory that this process ever held.

    Not `getrusage`: its figure survives exec, so that a child reports its parent's size.
    """
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise OSError("/proc/self/status has no VmHWM: measuring memory needs Linux")


def _time(answer: Answer, images: NDArray[np.uint8], budget_s: float) -> Point:
    for _ in range(2):  # a new shape: buffers are allocated, torch.compile compiles
        answer(images)
    seconds: list[float] = []
    end = time.perf_counter() + budget_s
    while len(seconds) < _FEWEST_SAMPLES or time.perf_counter() < end:
        start = time.perf_counter()
        answer(images)
        seconds.append(time.perf_counter() - start)
    return summarise(len(images), seconds)


def _load(job: Job) -> Answer:
    return _load_onnx(job) if job.runtime == "onnx" else _load_torch(job)


def _load_onnx(job: Job) -> Answer:
    from ml.artifact import new_session
    from serve.contract.artifact import INPUT

    session = new_session(Path(job.path).read_bytes(), job.threads)
    return lambda images: session.run(None, {INPUT: images})


def _load_torch(job: Job) -> Answer:
    import torch

    torch.set_num_threads(job.threads)
    graph = torch.load(job.path, weights_only=False).eval()  # written by our parent process
    graph = graph.to(memory_format=torch.channels_last)
    run = torch.compile(graph) if job.runtime == "compile" else graph

    def answer(images: NDArray[np.uint8]) -> Any:
        with torch.inference_mode():
            return run(torch.from_numpy(images))

    return answer


def _main(started: float, job: str) -> None:
    values = json.loads(job)
    values |= {"size": tuple(values["size"]), "batches": tuple(values["batches"])}
    measurement = measure(Job(**values), started)
    sys.stdout.write("\n" + json.dumps(asdict(measurement)) + "\n")
    sys.stdout.flush()
    os._exit(0)  # compiler workers and thread pools need no farewell


if __name__ == "__main__":
    _main(time.perf_counter(), sys.argv[1])
