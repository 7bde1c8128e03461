"""How a window lies against the reference: one panel a signal, and all statistics on one scale."""

from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from serve.contract.artifact import DriftReference
from serve.contract.drift import CLASSES, Counts, DriftReport, Statistic
from tools.figures import BLUE, INK, MUTED, RED, STYLE, new_figure

_COLUMNS = 5
_TITLES = {"psi": "PSI", "ks": "KS"}


def distributions(
    reference: DriftReference, window: Counts, report: DriftReport, classes: Sequence[str]
) -> Figure:
    """Share of the window's images in each bin of the reference, which fills its bins evenly.

    Without drift the bars follow the reference's outline; signals that drifted are red.
    """
    panels = [(CLASSES, window.classes, reference.class_priors, tuple(classes))]
    for signal in reference.signals:
        ends = (f"< {signal.edges[0]:.3g}", f"≥ {signal.edges[-1]:.3g}")
        panels.append((signal.name, window.signals[signal.name], signal.shares, ends))
    lines = -(-len(panels) // _COLUMNS)
    figure = new_figure(2.7 * _COLUMNS, 2.5 * lines)
    with matplotlib.rc_context(STYLE | {"axes.grid": False}):
        axes = figure.subplots(lines, _COLUMNS, squeeze=False).flat
        for axis, (name, counts, shares, ticks) in zip(axes, panels, strict=False):
            statistics = [s for s in report.statistics if s.signal == name]
            _panel(axis, name, counts, shares, ticks, statistics)
        for axis in list(axes):
            axis.set_axis_off()
    return figure


def statistics(report: DriftReport) -> Figure:
    """Every statistic in units of its threshold: what passes the line is drift."""
    rows = sorted(report.statistics, key=lambda s: s.value / s.threshold)
    figure = new_figure(7.5, 0.9 + 0.27 * max(1, len(rows)))
    with matplotlib.rc_context(STYLE):
        axes = figure.subplots()
        ratios = [max(s.value / s.threshold, 1e-3) for s in rows]
        colors = [RED if s.drifted else BLUE for s in rows]
        axes.barh(range(len(rows)), ratios, 0.62, color=colors)
        axes.axvline(1, color=INK, linewidth=1)
        axes.set_yticks(range(len(rows)), [f"{s.signal}  {_TITLES[s.kind]}" for s in rows])
        axes.set(xlabel="value / threshold", title="Beyond the line is drift")
        axes.set_xlim(0, max(1.25, *ratios) * 1.05)
        axes.grid(visible=False, axis="y")
    return figure


def _panel(
    axes: Axes,
    name: str,
    counts: Sequence[int],
    shares: Sequence[float],
    ticks: Sequence[str],
    statistics: Sequence[Statistic],
) -> None:
    drifted = any(s.drifted for s in statistics)
    place = np.arange(len(shares))
    if total := sum(counts):
        color = RED if drifted else BLUE
        axes.bar(place, np.array(counts) / total, 0.86, color=color, alpha=0.8)
    else:
        text = "not measured"
        axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", color=MUTED)
    axes.step(np.arange(len(shares) + 1) - 0.5, [*shares, shares[-1]], where="post", color=INK)
    values = ", ".join(f"{_TITLES[s.kind]} {s.value:.2g}" for s in statistics)
    axes.set_title(f"{name.replace('_', ' ')}\n{values or '–'}", fontsize=9)
    axes.title.set_color(RED if drifted else INK)
    if len(ticks) == len(shares):
        axes.set_xticks(place, ticks, rotation=60, ha="right", fontsize=7)
    else:
        axes.set_xticks([0, len(shares) - 1], ticks, fontsize=8)
        left, right = axes.get_xticklabels()
        left.set_horizontalalignment("left")
        right.set_horizontalalignment("right")
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.tick_params(axis="y", labelsize=7)
