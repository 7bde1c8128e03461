"""The figure of a benchmark: throughput by batch size under the machine's roof."""

from typing import TYPE_CHECKING

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator, ScalarFormatter

from ml.plots import BLUE, GREEN, INK, MUTED, ORANGE, RED, STYLE, new_figure

if TYPE_CHECKING:
    from ml.benchmark import Benchmark

_COLORS = (MUTED, INK, BLUE, GREEN, ORANGE, RED)


def benchmark_figure(result: "Benchmark") -> Figure:
    """Both axes logarithmic; the dashed line is what a perfect fp32 matrix product would allow."""
    counts = list(result.peak_gflops)
    figure = new_figure(4.8 * len(counts), 3.8)
    with matplotlib.rc_context(STYLE):
        panels = figure.subplots(1, len(counts), sharey=True, squeeze=False)[0]
        for axes, threads in zip(panels, counts, strict=True):
            _panel(axes, result, threads)
        panels[0].set_ylabel("images per second")
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def _panel(axes: Axes, result: "Benchmark", threads: int) -> None:
    rows = [row for row in result.results if row.threads == threads]
    for row, color in zip(rows, _COLORS, strict=False):
        if row.measurement:
            points = row.measurement.points
            batches, speeds = [p.batch for p in points], [p.images_per_s for p in points]
            axes.plot(batches, speeds, "o-", color=color, markersize=4, label=row.name)
    roof = result.peak_gflops[threads] * 1e9 / result.flops_per_image
    axes.axhline(roof, color=MUTED, linestyle="--", linewidth=1, label="fp32 roof")
    axes.set(xscale="log", yscale="log", xlabel="batch size", title=f"threads: {threads}")
    measured = next((row.measurement for row in rows if row.measurement), None)
    if measured:
        axes.set_xticks([p.batch for p in measured.points])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.yaxis.set_major_formatter(ScalarFormatter())
