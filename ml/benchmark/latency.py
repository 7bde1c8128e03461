"""Latency of one model, measured in a subprocess that `ml.benchmark.rounds` starts.

It receives a `Job` as JSON in its argument and prints JSON lines: the load time, then a `Point` for
each batch size that it reads, finally its memory.
"""

import json
import os
import shutil
import sys
import sysconfig
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Runtime = Literal["eager", "compile", "onnx"]
Predict = Callable[[NDArray[np.uint8]], Any]

_FEWEST_SAMPLES = 5


@dataclass(frozen=True)
class Job:
    """A measurement: a saved `ServingGraph` for PyTorch, an ONNX file for onnxruntime."""

    runtime: Runtime
    path: str
    threads: int
    size: tuple[int, int]  # height, width in pixels


@dataclass(frozen=True)
class Point:
    """Latency of one batch in milliseconds, throughput in images per second.

    Over several rounds: the median of each figure, and the range of throughput around its median.
    """

    batch: int
    samples: int
    p50_ms: float
    p95_ms: float
    p99_ms: float
    images_per_s: float
    spread: float = 0.0


@dataclass(frozen=True)
class Measurement:
    """Cold load lasts from the process's first line, imports included, to the first result."""

    cold_load_s: float
    peak_memory_bytes: int
    points: tuple[Point, ...]


def median_of_rounds(points: Sequence[Point]) -> Point:
    """The median of several rounds' points for one batch size."""
    speeds = [point.images_per_s for point in points]
    typical = float(np.median(speeds))
    return Point(
        batch=points[0].batch,
        samples=sum(point.samples for point in points),
        p50_ms=float(np.median([point.p50_ms for point in points])),
        p95_ms=float(np.median([point.p95_ms for point in points])),
        p99_ms=float(np.median([point.p99_ms for point in points])),
        images_per_s=typical,
        spread=(max(speeds) - min(speeds)) / typical,
    )


def summarise(batch: int, seconds: Sequence[float]) -> Point:
    """Percentiles of a batch size's latencies; throughput from their mean."""
    p50, p95, p99 = (float(p) for p in np.percentile(seconds, (50, 95, 99)) * 1e3)
    return Point(batch, len(seconds), p50, p95, p99, batch / float(np.mean(seconds)))


def peak_memory_bytes() -> int:
    """Peak memory of this process.

    Not `getrusage`, whose figure survives exec, so that a child reports its parent's peak.
    """
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise OSError("/proc/self/status has no VmHWM: measuring memory needs Linux")


def time_batches(predict: Predict, images: NDArray[np.uint8], budget_s: float) -> Point:
    """Latencies for the same images, repeated for so long and at least five times."""
    for _ in range(2):  # warm-up: a new shape allocates buffers, and torch.compile compiles
        predict(images)
    seconds: list[float] = []
    end = time.perf_counter() + budget_s
    while len(seconds) < _FEWEST_SAMPLES or time.perf_counter() < end:
        start = time.perf_counter()
        predict(images)
        seconds.append(time.perf_counter() - start)
    return summarise(len(images), seconds)


def load(job: Job) -> Predict:
    """The model as a function of (N, H, W, 3) images."""
    return _load_onnx(job) if job.runtime == "onnx" else _load_torch(job)


def _load_onnx(job: Job) -> Predict:
    from common.model.artifact import INPUT
    from ml.artifact.artifact import new_session

    session = new_session(Path(job.path).read_bytes(), job.threads)
    return lambda images: session.run(None, {INPUT: images})


def _load_torch(job: Job) -> Predict:
    import torch

    torch.set_num_threads(job.threads)
    # Not weights_only: our parent process has written a whole graph.
    graph = torch.load(job.path, weights_only=False).eval()
    graph = graph.to(memory_format=torch.channels_last)
    if job.runtime == "compile":
        os.environ |= compiler_environment()
        graph.compile()

    def predict(images: NDArray[np.uint8]) -> Any:
        with torch.inference_mode():
            return graph(torch.from_numpy(images))

    return predict


def uncompilable() -> str:
    """Why torch.compile does not work here (no C++ compiler, or no headers); "" if it does."""
    compiler = os.environ.get("CXX") or "g++"
    if not (shutil.which(compiler) or shutil.which("clang++")):
        return "skipped: torch.compile needs a C++ compiler (install g++, or set CXX)"
    for needed in (_torch_headers(), Path(sysconfig.get_path("include"), "Python.h")):
        if not needed.exists():
            return f"skipped: torch.compile needs {needed.name}, which this installation leaves out"
    return ""


def compiler_environment() -> dict[str, str]:
    """Variables with which the compiler finds PyTorch's headers outside their usual place."""
    import torch

    headers = _torch_headers()
    if headers.parent == Path(torch.__file__).parent:
        return {}
    folders = (headers, headers / "torch/csrc/api/include")
    given = os.environ.get("CPLUS_INCLUDE_PATH", "")
    return {"CPLUS_INCLUDE_PATH": os.pathsep.join([*map(str, folders), *filter(None, [given])])}


def _torch_headers() -> Path:
    """The headers beside the module, or beside the target of its symbolic link under Bazel."""
    import torch

    module = Path(torch.__file__)
    beside = module.parent / "include"
    return beside if beside.exists() else module.resolve().parent / "include"


def _main(started: float, job: Job) -> None:
    replies = os.fdopen(os.dup(1), "w")  # separate: libraries also print to standard output
    os.dup2(2, 1)

    def reply(values: Mapping[str, Any]) -> None:
        replies.write(json.dumps(values) + "\n")
        replies.flush()

    predict, random = load(job), np.random.default_rng(0)
    predict(np.zeros((1, *job.size, 3), np.uint8))
    reply({"cold_load_s": time.perf_counter() - started})
    for line in sys.stdin:
        if not (wish := json.loads(line)):
            break
        images = random.integers(0, 256, (wish["batch"], *job.size, 3)).astype(np.uint8)
        reply(asdict(time_batches(predict, images, wish["seconds"])))
    reply({"peak_memory_bytes": peak_memory_bytes()})
    os._exit(0)  # exit without waiting for compiler workers and thread pools


if __name__ == "__main__":
    _started = time.perf_counter()
    _values = json.loads(sys.argv[1])
    _main(_started, Job(**_values | {"size": tuple(_values["size"])}))
