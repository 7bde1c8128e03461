"""Benchmarks a trained model: latency, throughput, size, and share of the machine's peak.

A run folder is measured as PyTorch (eager and compiled), ONNX, simplified ONNX and INT8; model
files as they are. Writes a table, JSON and a plot.

  bazel run //ml:benchmark                              # the bundled model, fp32 and INT8
  bazel run //ml:benchmark -- runs/<folder>             # into runs/<folder>/benchmark
  bazel run //ml:benchmark -- a.onnx b.onnx --quick     # under a minute
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from math import prod
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
import onnx
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, NullLocator, ScalarFormatter
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from torch import nn

from common.command_line import command_parser, count, positive
from common.figures import BLUE, GREEN, INK, MUTED, ORANGE, RED, STYLE, new_figure, to_png, to_svg
from common.files import user_path, write_whole
from common.model.artifact import read_artifact
from common.terminal import Progress, terminal
from ml.artifact.artifact import BUNDLED_MODELS, ArtifactError, load_artifact
from ml.artifact.export import ServingGraph, to_onnx
from ml.artifact.quantise import quantised
from ml.benchmark.latency import uncompilable
from ml.benchmark.rounds import UNSTEADY, Benchmark, Contender, Result, measure_rounds
from ml.data.cifar10 import DatasetError
from ml.runs.datasets import check_same
from ml.runs.loading import TrainedError, calibration_images, open_trained


class Field(NamedTuple):
    """Contenders, the input's height and width in pixels, and the operations per image."""

    contenders: list[Contender]
    size: tuple[int, int]
    flops: int


def of_network(
    network: nn.Module, artifact: Path, calibration_images: NDArray[np.uint8], folder: Path
) -> Field:
    """PyTorch eager and compiled, and ONNX as exported, simplified, and in INT8.

    Args:
        artifact: the network's simplified export.
        folder: for the files of the other contenders.
    """
    metadata = load_artifact(artifact).metadata
    graph = ServingGraph(network.float().cpu(), metadata.mean, metadata.std).eval()
    saved, raw, small = folder / "graph.pt", folder / "exported.onnx", folder / "int8.onnx"
    torch.save(graph, saved)
    onnx.save(to_onnx(network, metadata.input_size, metadata.mean, metadata.std), raw)
    simplified = onnx.load(artifact)
    onnx.save(quantised(simplified, calibration_images), small)
    found = [
        Contender("torch eager", "eager", saved),
        Contender("torch compile", "compile", saved, uncompilable()),
        Contender("ONNX", "onnx", raw),
        Contender("ONNX simplified", "onnx", artifact),
        Contender("ONNX INT8", "onnx", small),
    ]
    return Field(found, metadata.input_size, flops_per_image(simplified))


def of_files(paths: Sequence[Path]) -> Field:
    """Model artifacts under distinct names.

    Raises:
        ArtifactError: one is invalid, or they take images of different sizes.
    """
    sizes = {path: load_artifact(path).metadata.input_size for path in paths}
    if len({*sizes.values()}) > 1:
        listed = ", ".join(f"{path}: {size[0]} x {size[1]}" for path, size in sizes.items())
        raise ArtifactError(f"models for images of different sizes cannot be compared ({listed})")
    names = distinct_names(paths)
    found = [Contender(n, "onnx", path) for n, path in zip(names, paths, strict=True)]
    return Field(found, sizes[paths[0]], flops_per_image(onnx.load(paths[0])))


def distinct_names(paths: Sequence[Path]) -> list[str]:
    """File names, prefixed by as many folders as necessary."""
    parts = [path.absolute().parts for path in paths]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-length:]) for part in parts]
        if len({*names}) == len(paths):
            return names
    raise ArtifactError("the same model is named twice")


def flops_per_image(model: onnx.ModelProto) -> int:
    """Floating-point operations of convolutions and matrix products; a multiply-add counts as two.

    Args:
        model: has a dynamic batch axis; shapes are inferred for one image.
    """
    single = onnx.ModelProto()
    single.CopyFrom(model)
    for value in (*single.graph.input, *single.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    del single.graph.value_info[:]
    graph = onnx.shape_inference.infer_shapes(single, data_prop=True).graph
    shapes: dict[str, Sequence[int]] = {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.value_info, *graph.output)
    }
    shapes |= {weight.name: weight.dims for weight in graph.initializer}
    return sum(_operations(node, shapes) for node in graph.node)


def _operations(node: onnx.NodeProto, shapes: dict[str, Sequence[int]]) -> int:
    if node.op_type == "Conv":  # weight: (outputs, inputs per group, height, width)
        return 2 * prod(shapes[node.output[0]]) * prod(shapes[node.input[1]][1:])
    if node.op_type in ("Gemm", "MatMul"):
        inner = shapes[node.input[0]]
        turned = any(a.name == "transA" and a.i for a in node.attribute)
        return 2 * prod(shapes[node.output[0]]) * inner[0 if turned else -1]
    return 0


BATCHES = (1, 8, 32, 128)
_CORES = os.cpu_count() or 1
_COLORS = (MUTED, INK, BLUE, GREEN, ORANGE, RED)


def main(arguments: Sequence[str], console: Console) -> int:
    options = _options().parse_args(arguments)
    quick = options.quick
    paths = [user_path(text) for text in options.models] or [*BUNDLED_MODELS]
    out = user_path(options.out) if options.out else _home(paths)
    try:
        with (
            tempfile.TemporaryDirectory(prefix="kiln-benchmark-") as folder,
            Progress("preparing the models", console=console) as progress,
        ):

            def begin(step: str) -> None:
                console.print(f"[dim]{step}[/]", highlight=False)
                progress.begin(step)

            field = gather(paths, Path(folder), compiled=not quick)
            result = measure_rounds(
                *field,
                threads=options.threads or ([_CORES] if quick else sorted({1, _CORES})),
                batches=options.batches or ([1, 32] if quick else list(BATCHES)),
                seconds=options.seconds or (0.4 if quick else 1.0),
                rounds=options.rounds or (2 if quick else 3),
                progress=begin,
            )
    except (ArtifactError, DatasetError, TrainedError, OSError) as exc:
        console.print(str(exc), style="red", markup=False, highlight=False, soft_wrap=True)
        return 2
    print_table(result, console)
    for path in write_results(result, out):
        console.print(str(path), highlight=False, soft_wrap=True)
    return 0


def gather(paths: Sequence[Path], folder: Path, *, compiled: bool = True) -> Field:
    """Contenders of one run folder, or of model files.

    Args:
        folder: for files made from a run folder's network.
        compiled: whether to include torch.compile, which compiles for half a minute.

    Raises:
        ArtifactError, TrainedError: names the folder or file that cannot be used.
    """
    if len(paths) != 1 or paths[0].suffix == ".onnx":
        files = [path / "model.onnx" if path.is_dir() else path for path in paths]
        return of_files(files)
    (run,) = paths
    trained = open_trained(run)
    check_same(read_artifact((run / "model.onnx").read_bytes()), trained.data)
    images = calibration_images(trained.data)
    found, size, flops = of_network(trained.network, run / "model.onnx", images, folder)
    return Field([c for c in found if compiled or c.runtime != "compile"], size, flops)


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


def _home(paths: Sequence[Path]) -> Path:
    """The default output folder: beside a run's other results, or in the current folder."""
    is_run = len(paths) == 1 and paths[0].is_dir()
    return paths[0] / "benchmark" if is_run else user_path("benchmark-report")


def _options() -> argparse.ArgumentParser:
    parser = command_parser("//ml:benchmark", __doc__)
    add = parser.add_argument
    add("models", nargs="*", help="a run folder, or model files")
    add("--threads", type=count, nargs="+", help="numbers of threads (1 and one per core)")
    add("--batches", type=count, nargs="+", help=f"({BATCHES})")
    add("--seconds", type=positive, help="seconds per batch size (1)")
    add("--rounds", type=count, help="interleaved rounds, of which medians are reported (3)")
    add("--quick", action="store_true", help="fewer measurements, without torch.compile")
    add("--out", help="folder for results (in a run folder: benchmark)")
    return parser


def benchmark_figure(result: Benchmark) -> Figure:
    """Throughput by batch size, one panel per number of threads, log-log; the dashes are the limit
    of an ideal fp32 matrix product. Below, for the most threads: latency of the smallest batch
    (bar: median, whisker: p99), arithmetic, size, memory, start.
    """
    counts = list(result.peak_gflops)
    names = list(dict.fromkeys(row.name for row in result.results))
    colors = {name: _COLORS[index % len(_COLORS)] for index, name in enumerate(names)}
    figure = new_figure(max(12.0, 4.8 * len(counts)), 4.6 + 0.5 * len(names))
    with matplotlib.rc_context(STYLE):
        rows = figure.subfigures(2, 1, squeeze=False, height_ratios=[3.4, 1.2 + 0.5 * len(names)])
        above, below = rows[:, 0]
        panels = above.subplots(1, len(counts), sharey=True, squeeze=False)[0]
        for axes, threads in zip(panels, counts, strict=True):
            _throughput(axes, result, threads, colors)
        panels[0].set_ylabel("images per second")
        handles = panels[0].get_legend_handles_labels()
        above.legend(*handles, loc="outside lower center", ncols=len(names) + 1)
        measured = [r for r in result.results if r.threads == max(counts) and r.measurement]
        if measured:
            _facts(below.subplots(1, 5, sharey=True), result, measured, colors)
    return figure


def _throughput(axes: Axes, result: Benchmark, threads: int, colors: dict[str, str]) -> None:
    rows = [row for row in result.results if row.threads == threads and row.measurement]
    batches: list[int] = []
    for row in rows:
        assert row.measurement is not None
        points = row.measurement.points
        batches, speeds = [p.batch for p in points], [p.images_per_s for p in points]
        axes.plot(batches, speeds, "o-", color=colors[row.name], markersize=4, label=row.name)
    roof = result.peak_gflops[threads] * 1e9 / result.flops_per_image
    axes.axhline(roof, color=MUTED, linestyle="--", linewidth=1, label="fp32 roof")
    axes.set(xscale="log", yscale="log", xlabel="batch size", title=f"threads: {threads}")
    if batches:
        axes.set_xticks(batches)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.yaxis.set_major_formatter(ScalarFormatter())
    axes.yaxis.set_minor_formatter(NullFormatter())


def _facts(
    panels: Sequence[Axes], result: Benchmark, rows: Sequence[Result], colors: dict[str, str]
) -> None:
    threads, places = rows[0].threads, range(len(rows))
    measurements = [row.measurement for row in rows if row.measurement]
    first = [m.points[0] for m in measurements]
    peak = result.peak_gflops[threads]
    columns = {
        f"GFLOP/s of {peak:.0f}": [row.gflops(result.flops_per_image) for row in rows],
        "File, MB": [row.size_bytes / 1e6 for row in rows],
        "Memory, MB": [m.peak_memory_bytes / 1e6 for m in measurements],
        "Cold load, s": [m.cold_load_s for m in measurements],
    }
    bar_colors = [colors[row.name] for row in rows]
    for axes, (title, values) in zip(panels[1:], columns.items(), strict=True):
        bars = axes.barh(places, values, 0.62, color=bar_colors)
        axes.bar_label(bars, [f" {value:.3g}" for value in values], fontsize=8, color=INK)
        axes.set(title=title, xlim=(0, 1.3 * max(values)))
        axes.grid(visible=False, axis="y")
    latency = panels[0]
    latency.barh(places, [p.p50_ms for p in first], 0.62, color=bar_colors)
    latency.hlines(places, [p.p50_ms for p in first], [p.p99_ms for p in first], color=MUTED, lw=1)
    for place, p in zip(places, first, strict=True):
        text = f" {p.p50_ms:.3g}, p99 {p.p99_ms:.3g}"
        latency.text(p.p99_ms, place, text, va="center", fontsize=8, color=INK)
    latency.set(title=f"Latency, batch {first[0].batch}, ms", yticks=places)
    latency.set_xlim(0, 1.9 * max(p.p99_ms for p in first))
    latency.set_yticklabels([row.name for row in rows])
    latency.grid(visible=False, axis="y")
    latency.invert_yaxis()


_LATENCIES = ("p50 ms", "p95 ms", "p99 ms")
_SIZES = ("size MB", "memory MB", "cold load s")


def print_table(result: Benchmark, console: Console) -> None:
    """Prints one row per contender, threads and batch size, then warnings and the peak."""
    title = f"{result.processor}: {result.flops_per_image / 1e6:.1f} MFLOP per image"
    table = Table(title=title)
    for name in ("model", "threads", "batch", *_LATENCIES, "images/s", "±", "GFLOP/s", "of peak"):
        table.add_column(name, justify="left" if name == "model" else "right")
    for name in _SIZES:
        table.add_column(name, justify="right")
    for row in result.results:
        for cells in _cells(row, result):
            table.add_row(*cells)
        table.add_section()
    console.print(table)
    for row in result.results:
        if row.skipped:
            text = f"{row.name}, threads {row.threads}: {row.skipped}"
            console.print(text, markup=False, highlight=False)
    peaks = ", ".join(f"{peak:.0f} with threads: {n}" for n, peak in result.peak_gflops.items())
    console.print(f"Peak of this machine, fp32 matrix product, GFLOP/s: {peaks}", highlight=False)
    for warning in result.warnings():
        text = f"Unreliable: {warning}. Repeat on an idle machine."
        console.print(text, style="yellow", highlight=False)


def _cells(row: Result, result: Benchmark) -> Iterator[list[str]]:
    if row.measurement is None:
        yield [row.name, str(row.threads), *["–"] * (5 + len(_LATENCIES) + len(_SIZES))]
        return
    m, peak = row.measurement, result.peak_gflops[row.threads]
    sizes = [f"{row.size_bytes / 1e6:.2f}", f"{m.peak_memory_bytes / 1e6:.0f}"]
    sizes.append(f"{m.cold_load_s:.2f}")
    for index, p in enumerate(m.points):
        gflops = p.images_per_s * result.flops_per_image / 1e9
        half = p.spread / 2
        steady = f"{half:.0%}" if p.spread <= UNSTEADY else f"[yellow]{half:.0%}[/]"
        yield [
            *([row.name, str(row.threads)] if index == 0 else ["", ""]),
            str(p.batch),
            *(f"{ms:.2f}" for ms in (p.p50_ms, p.p95_ms, p.p99_ms)),
            f"{p.images_per_s:.0f}",
            steady,
            f"{gflops:.1f}",
            f"{gflops / peak:.0%}",
            *(sizes if index == 0 else [""] * len(sizes)),
        ]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], terminal(150)))
