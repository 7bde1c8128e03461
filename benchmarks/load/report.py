"""Results of the load benchmark as tables and a plot."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.table import Table

from benchmarks.load.client import Load
from benchmarks.load.overhead import Bare
from benchmarks.load.servers import FLOOR
from common.figures import COLORS, INK, MUTED, STYLE, new_figure
from common.terminal import terminal


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
        for place, (callers, load) in enumerate(loads):
            latencies = (load.p50_ms, load.p95_ms, load.p99_ms, load.max_ms)
            table.add_row(
                "" if place else result.name,
                callers,
                f"{load.throughput:,.0f}",
                *(f"{latency:.2f}" for latency in latencies),
                str(sum(count for status, count in load.statuses.items() if status != "200")),
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
        for load, marker in ((result.closed[most], "o-"), (result.half_load, "o:")):
            if load is not None:
                values = [getattr(load, name) for name in quantiles]
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
