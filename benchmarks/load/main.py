"""Load benchmark of the service, side by side with alternatives.

    bazel run //serve:benchmark                             # the built-in model
    bazel run //serve:benchmark -- --peers                  # with FastAPI, LitServe and BentoML
    bazel run //serve:benchmark -- --model runs/…/model.onnx --model runs/…/model.int8.onnx
    bazel run //serve:benchmark -- --telemetry              # the cost of telemetry
    bazel run //serve:benchmark -- --capture                # the cost of capturing a tenth
    bazel run //serve:benchmark -- --json benchmark.json                # and benchmark.png

Everything runs on this machine, one server at a time; a separate process generates the load.
"""

import argparse
import base64
import io
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from rich.table import Table

from benchmarks.load.client import Job, Load
from benchmarks.load.overhead import (
    Bare,
    Overhead,
    measure_bare,
    measure_capture,
    measure_telemetry,
)
from benchmarks.load.servers import (
    FLOOR,
    PeersMissing,
    Running,
    ServerCommand,
    ServerFailed,
    ask,
    floor,
    interruptible,
    load,
    peers,
    running,
    service,
)
from common.command_line import command_parser
from common.figures import COLORS, INK, MUTED, STYLE, new_figure, to_png
from common.files import user_path, write_whole
from common.model.artifact import ArtifactError, ArtifactMetadata
from common.resources import cpu_name
from common.terminal import Progress, terminal
from serve.inference.model_path import model_path, read_model
from serve.settings import Settings


@dataclass
class Result:
    name: str
    model: str
    cold_start_s: float
    closed: dict[int, Load] = field(default_factory=dict)  # by number of clients
    half_load: Load | None = None  # open loop at half of the best throughput
    batch_images_per_s: float | None = None
    cpu_us_per_request: float = 0.0  # at the largest number of clients
    memory_mb: float = 0.0
    failure: str | None = None


def show(results: Sequence[Result], bare: Mapping[str, Bare], cpus: int) -> None:
    """Prints both tables and the main ratios."""
    console = terminal()
    console.print(_throughput(results, cpus))
    console.print(_cost(results))
    for line in ratios(results, bare):
        console.print(line)


def _throughput(results: Sequence[Result], cpus: int) -> Table:
    table = Table(title=f"/predict on {cpus} CPUs, latencies in milliseconds")
    table.add_column("server")
    for name in ("callers", "requests/s", "p50", "p95", "p99", "max", "not 200"):
        table.add_column(name, justify="right")
    for result in results:
        loads = [(str(callers), load) for callers, load in result.closed.items()]
        if result.half_load is not None:
            loads.append(("half load", result.half_load))
        for place, (callers, one) in enumerate(loads):
            latencies = (one.p50_ms, one.p95_ms, one.p99_ms, one.max_ms)
            table.add_row(
                "" if place else result.name,
                callers,
                f"{one.throughput:,.0f}",
                *(f"{latency:.2f}" for latency in latencies),
                str(sum(count for status, count in one.statuses.items() if status != "200")),
                end_section=place == len(loads) - 1,
            )
    return table


def _cost(results: Sequence[Result]) -> Table:
    table = Table(title="Resources")
    table.add_column("server")
    for name in ("cold start, s", "memory, MB", "CPU, µs/request", "/predict/batch, images/s"):
        table.add_column(name, justify="right")
    for result in results:
        if result.failure:
            table.add_row(result.name, "failed", "", "", "")
            continue
        batch = result.batch_images_per_s
        table.add_row(
            result.name,
            f"{result.cold_start_s:.2f}",
            f"{result.memory_mb:.0f}",
            f"{result.cpu_us_per_request:,.0f}",
            f"{batch:,.0f}" if batch else "",
        )
    return table


def ratios(results: Sequence[Result], bare: Mapping[str, Bare]) -> list[str]:
    """The first server relative to the others and to the machine."""
    first = results[0]
    if first.failure:
        return []
    ceiling = next(iter(bare.values()))
    most = max(first.closed)
    lines = []
    others = {one.name: one for one in results if one.name[:4] != "Kiln" and not one.failure}
    if least := others.pop(FLOOR, None):
        slower = first.closed[1].p50_ms / least.closed[1].p50_ms
        share = first.closed[most].throughput / least.closed[most].throughput
        lines.append(
            f"without a service: a single request takes {slower:.2f} times as long here, "
            f"{most} callers get {share:.2f} of its responses"
        )
    if peers := others.values():
        best = max(peers, key=lambda one: one.closed[most].throughput)
        ratio = first.closed[most].throughput / best.closed[most].throughput
        lines.append(f"{most} callers: {ratio:.2f} times {best.name}, the best of the peers")
    alone = ceiling.decode_ms + ceiling.run_ms
    lines.append(
        f"single request: {first.closed[1].p50_ms / alone:.2f} times decoding and running the "
        f"model without a service ({alone:.2f} ms)"
    )
    if first.batch_images_per_s:
        share = first.batch_images_per_s / ceiling.batch_images_per_s
        lines.append(
            f"batches of 100: {share:.2f} times onnxruntime on decoded images "
            f"({ceiling.batch_images_per_s:,.0f} images/s)"
        )
    if first.half_load:
        lines.append(
            f"half load: p99 is {first.half_load.p99_ms / first.half_load.p50_ms:.1f} × p50"
        )
    return lines


def benchmark_figure(results: Sequence[Result], bare: Mapping[str, Bare]) -> Figure:
    """Throughput by clients; latency at most clients and at half load; memory; cold start.

    The dashes are one CPU that decodes and runs the first model, without a service.
    """
    measured = [result for result in results if not result.failure and result.closed]
    figure = new_figure(11, 4.6 + 0.45 * len(measured))
    if not measured:
        figure.text(0.5, 0.5, "no server could be measured", ha="center")
        return figure
    colors = {result.name: COLORS[i % len(COLORS)] for i, result in enumerate(measured)}
    with matplotlib.rc_context(STYLE):
        rows = figure.subfigures(
            2, 1, squeeze=False, height_ratios=(3.2, 1.4 + 0.45 * len(measured))
        )
        above, below = rows[:, 0]
        throughput, latency = above.subplots(1, 2)
        _figure_throughput(throughput, measured, bare, colors)
        _latency(latency, measured, colors)
        handles = throughput.get_legend_handles_labels()
        above.legend(*handles, loc="outside lower center", ncols=len(measured) + 1)
        costs = below.subplots(1, 3, sharey=True)
        names = [colors[result.name] for result in measured]
        _bars(costs[0], "Memory, MB", [result.memory_mb for result in measured], names)
        _bars(costs[1], "Cold start, s", [result.cold_start_s for result in measured], names)
        cpu = [result.cpu_us_per_request for result in measured]
        _bars(costs[2], "CPU time per request, µs", cpu, names)
        costs[0].set_yticks(range(len(measured)), [result.name for result in measured])
        costs[0].invert_yaxis()
    return figure


def _figure_throughput(
    axes: Axes, results: Sequence[Result], bare: Mapping[str, Bare], colors: Mapping[str, str]
) -> None:
    for result in results:
        speeds = [load.throughput for load in result.closed.values()]
        color = colors[result.name]
        axes.plot([*result.closed], speeds, "o-", color=color, markersize=4, label=result.name)
    first = next(iter(bare.values()))
    alone = 1e3 / (first.decode_ms + first.run_ms)
    axes.axhline(
        alone, color=MUTED, linewidth=0.9, linestyle="--", label="decoding and inference only"
    )
    axes.set(title="Requests answered per second", xlabel="concurrent callers", xscale="log")
    axes.set_xticks([*results[0].closed], [str(callers) for callers in results[0].closed])
    axes.minorticks_off()
    axes.set_ylim(bottom=0)


def _latency(axes: Axes, results: Sequence[Result], colors: Mapping[str, str]) -> None:
    """Quantiles: filled at most clients, hollow at half of the server's best throughput."""
    quantiles = ("p50_ms", "p95_ms", "p99_ms", "max_ms")
    for result in results:
        most = max(result.closed)
        for one, marker in ((result.closed[most], "o-"), (result.half_load, "o:")):
            if one is not None:
                values = [getattr(one, name) for name in quantiles]
                hollow = "white" if marker == "o:" else colors[result.name]
                axes.plot(
                    values, marker, color=colors[result.name], markersize=5, markerfacecolor=hollow
                )
    axes.set(title=f"Latency, ms: {most} callers (filled), half load (hollow)", yscale="log")
    axes.yaxis.set_major_formatter(lambda ms, _: f"{ms:g}")  # its own would need math mode
    axes.set_xticks(range(len(quantiles)), [name.removesuffix("_ms") for name in quantiles])


def _bars(axes: Axes, title: str, values: Sequence[float], colors: Sequence[str]) -> None:
    bars = axes.barh(range(len(values)), values, 0.6, color=colors)
    axes.bar_label(
        bars,
        [f" {value:,.3g}" if value < 100 else f" {value:,.0f}" for value in values],
        fontsize=8,
        color=INK,
    )
    axes.set(title=title, xlim=(0, 1.25 * max(values)))
    axes.grid(visible=False, axis="y")


_CONCURRENCY = (1, 8, 64)
_STEPS = len(_CONCURRENCY) + 2  # measurements of a server: each of these, half load, batches
_BATCH = 100
_BATCH_CALLERS = 4


def main() -> int:
    """Measures and prints; 2 if there is nothing to measure."""
    options = _options()
    settings = Settings.from_environment()
    try:
        paths = [user_path(path) for path in options.model] or [model_path(settings)]
        models = {path: read_model(path) for path in paths}
        servers = [
            (service(path, options.workers, _name(metadata)), path)
            for path, metadata in models.items()
        ]
        if options.peers:
            others = [*peers(paths[0], options.workers), floor(paths[0], options.workers)]
            servers += [(other, paths[0]) for other in others]
    except (ArtifactError, PeersMissing) as exc:
        sys.stderr.write(f"kiln: error: {exc}\n")
        return 2
    if options.telemetry or options.capture:
        measure = measure_telemetry if options.telemetry else measure_capture
        return _compare(measure, servers[0][0], models[paths[0]], options)
    with Progress("measuring bare onnxruntime") as progress:
        bare = {
            str(path): measure_bare(path, _image(models[path]), settings.cpus) for path in paths
        }
        progress.begin("measuring", _STEPS * len(servers))
        results = [
            _measured(server, models[path], options.seconds, progress) for server, path in servers
        ]
    show(results, bare, settings.cpus)
    if options.json:
        _write(user_path(options.json), results, bare, settings.cpus)
    return 1 if any(result.failure for result in results) else 0


def _compare(
    measure: Callable[[ServerCommand, str, float], Overhead],
    server: ServerCommand,
    metadata: ArtifactMetadata,
    options: argparse.Namespace,
) -> int:
    body = json.dumps({"image": _image(metadata)})
    try:
        overhead = measure(server, body, options.seconds)
    except ServerFailed as exc:
        sys.stderr.write(f"kiln: {exc}\n")
        return 1
    print(overhead)
    if options.json:
        path = user_path(options.json)
        facts = {"throughput": overhead.throughput, "cpu": overhead.cpu}
        facts["memory_mb"] = overhead.memory_mb
        document = {"machine": _machine(Settings().cpus), **facts, **asdict(overhead)}
        write_whole(path, json.dumps(document, indent=2).encode() + b"\n")
        sys.stderr.write(f"kiln: wrote {path}\n")
    return 0


def _name(metadata: ArtifactMetadata) -> str:
    return "Kiln" if metadata.quantisation == "none" else f"Kiln, {metadata.quantisation}"


def _measured(
    server: ServerCommand, metadata: ArtifactMetadata, seconds: float, progress: Progress
) -> Result:
    image = _image(metadata)
    body = json.dumps({"image": image})
    result = Result(server.name, metadata.name, 0.0)
    progress.update(what=f"measuring {server.name}", detail="cold start")
    try:
        with running(server, "/predict", body) as up:
            result.cold_start_s = up.cold_start_s
            _check_answer(up, body, metadata)
            _put_under_load(up, result, body, seconds, progress)
            progress.update(detail="batches")
            if server.name.startswith("Kiln"):
                batch = json.dumps({"images": [image] * _BATCH, "top_k": 1})
                done = load(Job(up.port, "/predict/batch", batch, seconds, _BATCH_CALLERS))
                result.batch_images_per_s = done.throughput * _BATCH
            progress.advance()
            result.memory_mb = up.memory_mb()
    except ServerFailed as exc:
        result.failure = str(exc)
        sys.stderr.write(f"kiln: {exc}\n")
    return result


def _put_under_load(
    server: Running, result: Result, body: str, seconds: float, progress: Progress
) -> None:
    for callers in _CONCURRENCY:
        progress.update(detail=f"{callers} callers")
        job = Job(server.port, "/predict", body, seconds, callers)
        before = server.cpu_s()
        done = result.closed[callers] = load(job)
        result.cpu_us_per_request = (server.cpu_s() - before) / max(1, done.answered) * 1e6
        progress.advance()
    progress.update(detail="half load")
    best = max(done.throughput for done in result.closed.values())
    result.half_load = load(Job(server.port, "/predict", body, seconds, 256, rate=best / 2))
    progress.advance()


def _check_answer(server: Running, body: str, metadata: ArtifactMetadata) -> None:
    """A server with wrong predictions is not measured."""
    found = ask(server.port, "/predict", body)["index"]
    expected = int(np.argmax(metadata.parity.probabilities[0]))
    if found != expected:
        raise ServerFailed(f"answered class {found}, expected {expected}")


def _image(metadata: ArtifactMetadata) -> str:
    """The artifact's first image, as a PNG in base64."""
    height, width = metadata.input_size
    pixels = np.frombuffer(metadata.parity.images, np.uint8).reshape(-1, height, width, 3)[0]
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def _write(path: Path, results: list[Result], bare: dict[str, Bare], cpus: int) -> None:
    document = {
        "machine": _machine(cpus),
        "bare": {model: asdict(measured) for model, measured in bare.items()},
        "results": [asdict(result) for result in results],
    }
    write_whole(path, json.dumps(document, indent=2).encode() + b"\n")
    figure = path.with_suffix(".png")
    write_whole(figure, to_png(benchmark_figure(results, bare)))
    sys.stderr.write(f"kiln: wrote {path} and {figure}\n")


def _machine(cpus: int) -> dict[str, Any]:
    return {"cpus": cpus, "processor": cpu_name(), "load": os.getloadavg()[0]}


def _options() -> argparse.Namespace:
    parser = command_parser("//serve:benchmark", __doc__)
    add = parser.add_argument
    add("--model", type=Path, action="append", default=[], help="may be repeated")
    add(
        "--peers",
        action="store_true",
        help="include FastAPI, LitServe, BentoML, and the model in a loop without a service",
    )
    add(
        "--telemetry",
        action="store_true",
        help="only compare with and without telemetry, interleaved",
    )
    add("--capture", action="store_true", help="the same for capture")
    add("--seconds", type=float, default=5, help="seconds per load (default: 5)")
    add("--workers", type=int, default=Settings().cpus, help="processes per server")
    add("--json", type=Path, help="JSON file for the figures; a plot is written beside it")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(interruptible(main))
