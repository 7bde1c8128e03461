"""How fast a trained model answers, how big it is, and how much of the machine it uses.

``bazel run //ml:benchmark -- RUN_FOLDER`` compares PyTorch, ONNX and INT8; a table for people, JSON
for tools, a plot for both.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from torch import nn

from ml import latency
from ml.artifact import ArtifactError, load_artifact
from ml.benchmark_plot import benchmark_figure
from ml.child_process import python_environment
from ml.export import ServingGraph, to_onnx
from ml.files import write_whole
from ml.latency import Job, Measurement, Runtime
from ml.plots import to_png, to_svg
from ml.quantise import quantised
from ml.roofline import flops_per_image, peak_gflops

BATCHES = (1, 8, 32, 128)
_CHILD_TIMEOUT_S = 600


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
    flops_per_image: int
    peak_gflops: dict[int, float]  # fp32 matrix product, by number of threads
    results: tuple[Result, ...]

    def to_json(self) -> str:
        """For tools; times in seconds or as named, sizes in bytes."""
        return json.dumps(asdict(self), indent=2) + "\n"


def benchmark(
    contenders: Sequence[Contender],
    graph: ServingGraph,
    size: tuple[int, int],
    *,
    threads: Sequence[int],
    batches: Sequence[int] = BATCHES,
    seconds: float = 1.0,
    progress: Callable[[str], None] = lambda _: None,
) -> Benchmark:
    """Measure every contender with every number of threads, each in a process of its own."""
    load = os.getloadavg()[0]
    peaks = {n: peak_gflops(n) for n in threads}
    results = []
    for n in threads:
        for contender in contenders:
            progress(f"{contender.name}, threads: {n}")
            results.append(_run(contender, n, size, batches, seconds))
    # Again, in case something else kept the machine busy the first time.
    peaks = {n: round(max(peak, peak_gflops(n)), 1) for n, peak in peaks.items()}
    flops = flops_per_image(graph, torch.zeros(2, *size, 3, dtype=torch.uint8))
    return Benchmark(_processor(), round(load, 2), flops, peaks, tuple(results))


def contenders(
    network: nn.Module, artifact: Path, calibration_images: NDArray[np.uint8], folder: Path
) -> tuple[list[Contender], ServingGraph, tuple[int, int]]:
    """Everything that a trained network can be served as, written to `folder`.

    Returns:
        The contenders, the graph that PyTorch runs, and the input's height and width.
    """
    metadata = load_artifact(artifact).metadata
    graph = ServingGraph(network.float().cpu(), metadata.mean, metadata.std).eval()
    saved, raw, small = folder / "graph.pt", folder / "exported.onnx", folder / "int8.onnx"
    torch.save(graph, saved)
    onnx.save(to_onnx(network, metadata.input_size, metadata.mean, metadata.std), raw)
    onnx.save(quantised(onnx.load(artifact), calibration_images), small)
    found = [
        Contender("torch eager", "eager", saved),
        Contender("torch compile", "compile", saved, _uncompilable()),
        Contender("ONNX", "onnx", raw),
        Contender("ONNX simplified", "onnx", artifact),
        Contender("ONNX INT8", "onnx", small),
    ]
    return found, graph, metadata.input_size


def print_table(result: Benchmark, console: Console) -> None:
    """One row per contender, number of threads and batch size."""
    table = Table(title=f"{result.processor}: {result.flops_per_image / 1e6:.1f} MFLOP per image")
    for name in ("model", "threads", "batch", "p50 ms", "p95 ms", "p99 ms", "images/s", "GFLOP/s"):
        table.add_column(name, justify="left" if name == "model" else "right")
    for name in ("of peak", "size MB", "memory MB", "cold load s"):
        table.add_column(name, justify="right")
    for row in result.results:
        for cells in _cells(row, result):
            table.add_row(*cells)
        table.add_section()
    console.print(table)
    for row in result.results:
        if row.skipped:
            console.print(f"{row.name}, threads {row.threads}: {row.skipped}", markup=False)
    peaks = ", ".join(f"{peak:.0f} with threads: {n}" for n, peak in result.peak_gflops.items())
    if result.load > 0.5:
        console.print(f"The machine was busy (load {result.load:.1f}): repeat it on an idle one.")
    console.print(f"Peak of this machine, fp32 matrix product, GFLOP/s: {peaks}")


def write_results(result: Benchmark, folder: Path) -> list[Path]:
    """`benchmark.json`, `.png` and `.svg`."""
    figure = benchmark_figure(result)
    files: dict[str, bytes | str] = {
        "benchmark.json": result.to_json(),
        "benchmark.png": to_png(figure),
        "benchmark.svg": to_svg(figure),
    }
    for name, data in files.items():
        write_whole(folder / name, data)
    return [folder / name for name in files]


def _run(
    contender: Contender,
    threads: int,
    size: tuple[int, int],
    batches: Sequence[int],
    seconds: float,
) -> Result:
    size_bytes = contender.path.stat().st_size
    if contender.skipped:
        return Result(contender.name, threads, size_bytes, None, contender.skipped)
    path = str(contender.path.absolute())
    job = Job(contender.runtime, path, threads, size, tuple(batches), seconds)
    measurement, problem = None, ""
    with tempfile.TemporaryDirectory(prefix="kiln-benchmark-") as cache:
        # An empty compiler cache, so that cold is cold; OpenMP reads its variable at start alone.
        environment = {"TORCHINDUCTOR_CACHE_DIR": cache, "OMP_NUM_THREADS": str(threads)}
        try:
            child = subprocess.run(
                [sys.executable, latency.__file__, json.dumps(asdict(job))],
                env=python_environment() | environment,
                capture_output=True,
                text=True,
                timeout=_CHILD_TIMEOUT_S,
            )
            problem = "" if child.returncode == 0 else _reason(child.stderr)
        except subprocess.TimeoutExpired:
            problem = f"took longer than {_CHILD_TIMEOUT_S} s"
    if not problem:
        measurement = Measurement.from_json(_last_line(child.stdout))
    return Result(contender.name, threads, size_bytes, measurement, problem)


def _cells(row: Result, result: Benchmark) -> Iterator[list[str]]:
    if row.measurement is None:
        yield [row.name, str(row.threads), *["–"] * 10]
        return
    m, peak = row.measurement, result.peak_gflops[row.threads]
    sizes = [row.size_bytes / 1e6, m.peak_memory_bytes / 1e6, m.cold_load_s]
    for index, p in enumerate(m.points):
        gflops = p.images_per_s * result.flops_per_image / 1e9
        tail = [f"{sizes[0]:.2f}", f"{sizes[1]:.0f}", f"{sizes[2]:.2f}"] if index == 0 else [""] * 3
        latencies = [f"{ms:.2f}" for ms in (p.p50_ms, p.p95_ms, p.p99_ms)]
        head = [row.name, str(row.threads)] if index == 0 else ["", ""]
        speed = [f"{p.images_per_s:.0f}", f"{gflops:.1f}", f"{gflops / peak:.0%}"]
        yield [*head, str(p.batch), *latencies, *speed, *tail]


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["no message"])[-1]


def _reason(stderr: str) -> str:
    """The exception in a traceback, which may have advice below it."""
    named = re.findall(r"^[\w.]*(?:Error|Exception|Failure)\b.*", stderr, re.MULTILINE)
    return "failed: " + (named[-1] if named else _last_line(stderr))[:300]


def _uncompilable() -> str:
    """Why torch.compile cannot work here, or an empty text."""
    compiler = os.environ.get("CXX") or "g++"
    if not (shutil.which(compiler) or shutil.which("clang++")):
        return "skipped: torch.compile needs a C++ compiler (install g++, or set CXX)"
    torch_headers = Path(torch.__file__).parent / "include"
    python_header = Path(sysconfig.get_path("include"), "Python.h")
    for needed in (torch_headers, python_header):
        if not needed.exists():
            return f"skipped: torch.compile needs {needed.name}, which this installation leaves out"
    return ""


def _processor() -> str:
    name = str(torch.cpu.get_capabilities().get("cpu_name") or "CPU")
    return f"{name}, {os.cpu_count()} cores"


def main(arguments: Sequence[str], console: Console) -> int:
    """Benchmark the model in a run folder."""
    from ml.trained import TrainedError, calibration_images, load_network

    options = _options().parse_args(arguments)
    run = Path(os.environ.get("BUILD_WORKING_DIRECTORY", "")) / options.run
    try:
        network = load_network(run)
        images = calibration_images(run)
        with tempfile.TemporaryDirectory(prefix="kiln-benchmark-") as folder:
            found, graph, size = contenders(network, run / "model.onnx", images, Path(folder))
            result = benchmark(
                found,
                graph,
                size,
                threads=options.threads,
                batches=options.batches,
                seconds=options.seconds,
                progress=lambda text: console.print(f"[dim]measuring {text}[/]"),
            )
    except (ArtifactError, TrainedError, OSError) as exc:
        console.print(f"[red]{exc}[/]")
        return 2
    print_table(result, console)
    for path in write_results(result, run / "benchmark"):
        console.print(str(path), highlight=False, soft_wrap=True)
    return 0


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="benchmark", description=__doc__)
    parser.add_argument("run", help="run folder of a finished training")
    cores = sorted({1, os.cpu_count() or 1})
    parser.add_argument("--threads", type=_positive, nargs="+", default=cores)
    parser.add_argument("--batches", type=_positive, nargs="+", default=list(BATCHES))
    parser.add_argument("--seconds", type=float, default=1.0, help="timing per batch size")
    return parser


def _positive(text: str) -> int:
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number above 0, got {text}")
    return number


if __name__ == "__main__":
    terminal = Console()
    sys.exit(main(sys.argv[1:], terminal if terminal.is_terminal else Console(width=140)))
