"""The picture of a benchmark: the servers side by side."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from serve.benchmark.bare import Bare
from tools.figures import COLORS, INK, MUTED, STYLE, new_figure

if TYPE_CHECKING:
    from serve.benchmark.main import Result


def benchmark_figure(results: "Sequence[Result]", bare: Mapping[str, Bare]) -> Figure:
    """Throughput by callers; latency at the most callers and at half load; memory; cold start.

    The dashes are one processor that decodes and runs the first model, without a service.
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
        _throughput(throughput, measured, bare, colors)
        _latency(latency, measured, colors)
        handles = throughput.get_legend_handles_labels()
        above.legend(*handles, loc="outside lower center", ncols=len(measured) + 1)
        costs = below.subplots(1, 3, sharey=True)
        names = [colors[result.name] for result in measured]
        _bars(costs[0], "Memory, MB", [result.memory_mb for result in measured], names)
        _bars(costs[1], "Cold start, s", [result.cold_start_s for result in measured], names)
        cpu = [result.cpu_us_per_request for result in measured]
        _bars(costs[2], "Processor time of a request, µs", cpu, names)
        costs[0].set_yticks(range(len(measured)), [result.name for result in measured])
        costs[0].invert_yaxis()
    return figure


def _throughput(
    axes: Axes,
    results: "Sequence[Result]",
    bare: Mapping[str, Bare],
    colors: Mapping[str, str],
) -> None:
    for result in results:
        speeds = [load.throughput for load in result.closed.values()]
        color = colors[result.name]
        axes.plot([*result.closed], speeds, "o-", color=color, markersize=4, label=result.name)
    first = next(iter(bare.values()))
    alone = 1e3 / (first.decode_ms + first.run_ms)
    axes.axhline(alone, color=MUTED, linewidth=0.9, linestyle="--", label="decode and run, alone")
    axes.set(title="Requests answered per second", xlabel="callers at once", xscale="log")
    axes.set_xticks([*results[0].closed], [str(callers) for callers in results[0].closed])
    axes.minorticks_off()
    axes.set_ylim(bottom=0)


def _latency(axes: Axes, results: "Sequence[Result]", colors: Mapping[str, str]) -> None:
    """Quantiles: filled at the most callers, hollow at half of the server's best throughput."""
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
