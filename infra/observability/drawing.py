"""Panels as matplotlib draws them."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from infra.observability.dashboards.panels import Panel
from infra.observability.prometheus_client import Series

_ACROSS = 3
_MOST = 10  # series in a legend
_INK, _PALE, _ALARM = "#1f2933", "#e4e7eb", "#c0392b"

# A panel with (legend's template, series) for each series that it has.
Drawn = tuple[Panel, Sequence[tuple[str, Series]]]


def draw(panels: Sequence[Drawn], start_s: float, output: Path) -> None:
    """One picture of all panels, over minutes since the start."""
    mpl.use("Agg")
    rows = math.ceil(len(panels) / _ACROSS)
    figure = Figure(figsize=(15, 2.9 * rows), dpi=110, layout="constrained", facecolor="white")
    for index, (panel, found) in enumerate(panels):
        axes = figure.add_subplot(rows, _ACROSS, index + 1)
        _draw_panel(axes, panel, found, start_s)
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output)


def _draw_panel(
    axes: Axes, panel: Panel, found: Sequence[tuple[str, Series]], start_s: float
) -> None:
    axes.set_title(panel.title, loc="left", fontsize=10, color=_INK, fontweight="bold")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda minutes, _: f"{minutes:g} min"))
    named = [(_legend(legend, series.labels), series) for legend, series in found]
    named.sort(key=lambda one: -max(map(abs, one[1].values), default=0))
    colours = mpl.colormaps["tab10"]
    if panel.stacked and named:
        _stack(axes, named, start_s)
    for number, (name, series) in enumerate(() if panel.stacked else named):
        minutes = [(at - start_s) / 60 for at in series.times]
        label = name if name and number < _MOST else None
        axes.plot(minutes, series.values, linewidth=1.4, color=colours(number % 10), label=label)
    _limit(axes, panel)
    _style(axes, panel)
    if not named:
        axes.text(0.5, 0.5, "no data", transform=axes.transAxes, ha="center", color=_ALARM)
    elif any(axes.get_legend_handles_labels()[1]):
        axes.legend(
            fontsize=7,
            frameon=False,
            ncols=min(len(named), 5),
            loc="upper left",
            bbox_to_anchor=(0, -0.09),
            borderaxespad=0.0,
            handlelength=1.2,
            columnspacing=1.2,
            labelcolor=_INK,
        )


def _stack(axes: Axes, named: Sequence[tuple[str, Series]], start_s: float) -> None:
    times = sorted({at for _, series in named for at in series.times})
    layers = []
    for _, series in named:
        values = dict(zip(series.times, series.values, strict=True))
        layers.append([_number(values.get(at, 0.0)) for at in times])
    minutes = [(at - start_s) / 60 for at in times]
    axes.stackplot(
        minutes,
        layers,
        labels=[name for name, _ in named],
        alpha=0.75,
        colors=[mpl.colormaps["tab10"](number % 10) for number in range(len(named))],
    )


def _limit(axes: Axes, panel: Panel) -> None:
    limit = panel.warn_above if panel.warn_above is not None else panel.warn_below
    if limit is None or panel.stacked:
        return
    low, high = axes.get_ylim()
    # A limit far beyond what happens would flatten everything.
    if low - (high - low) <= limit <= high + (high - low):
        axes.axhline(limit, color=_ALARM, linewidth=1, linestyle=(0, (4, 3)))


def _style(axes: Axes, panel: Panel) -> None:
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _FORMATS[panel.unit](value)))
    axes.grid(axis="y", color=_PALE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=8, colors=_INK, length=0)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(_PALE)
    axes.margins(x=0)
    _scale(axes, panel)


def _scale(axes: Axes, panel: Panel) -> None:
    """From zero where that says more; and a difference of nothing does not fill the axis."""
    low, high = axes.get_ylim()
    if panel.unit == "bytes" or 0 < low < 0.6 * high:
        axes.set_ylim(0, high)
    elif panel.unit == "percentunit" and high - low < 0.02:
        middle = (low + high) / 2
        axes.set_ylim(middle - 0.01, middle + 0.01)


def _legend(template: str, labels: Mapping[str, str]) -> str:
    filled = re.sub(r"\{\{(\w+)\}\}", lambda found: _short(labels.get(found[1], "")), template)
    return filled.strip()


def _short(value: str) -> str:
    """Digests and instance ids by their beginning."""
    return value[:8] if re.fullmatch(r"[0-9a-f-]{32,}", value) else value


def _number(value: float) -> float:
    return value if math.isfinite(value) else 0.0


def _seconds(value: float) -> str:
    return f"{value * 1000:g} ms" if abs(value) < 1 else f"{value:g} s"


_FORMATS: Mapping[str, Callable[[float], str]] = {
    "short": lambda value: f"{value:g}",
    "reqps": lambda value: f"{value:g}/s",
    "percentunit": lambda value: f"{value * 100:.4g} %",
    "s": _seconds,
    "bytes": lambda value: f"{value / 1e6:g} MB",
    "currencyUSD": lambda value: f"${value:g}",
}
