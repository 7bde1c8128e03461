"""Plots the dashboards' panels from a Prometheus, for machines without Grafana.

    bazel run //infra/observability:picture -- --prometheus http://127.0.0.1:9090

Uses the dashboards' queries over a range of time.
Exit codes: 0 plotted, 2 Prometheus failed.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import ProxyHandler, build_opener

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from numpy.typing import NDArray
from rich.console import Console

from common.command_line import command_parser
from common.figures import RED, STYLE, new_figure
from common.files import user_path
from common.terminal import Progress, terminal
from infra.observability.catalogue import load
from infra.observability.dashboards import Dashboard, Panel, dashboards

BAD_INPUT = 2  # exit code
_TIMEOUT_S = 60.0
_ACROSS, _POINTS = 3, 240
_MOST = 10  # maximum number of series in a legend
# Series name, and (N, 2) minutes and values.
Series = tuple[str, NDArray[np.float64]]


class PrometheusError(Exception):
    """Prometheus failed or refused a query; the message says which."""


def main(arguments: Sequence[str], console: Console) -> int:
    """Entry point of the command."""
    options = _options().parse_args(arguments)
    end_s, output = time.time(), user_path(options.output)
    panels = chosen(options.dashboard)
    try:
        with Progress("asking Prometheus", len(panels), console=console) as progress:
            drawn = []
            for dashboard, panel in panels:
                found = _ask(options.prometheus, dashboard, panel, end_s, options.minutes)
                drawn.append((panel, found))
                progress.advance()
    except PrometheusError as exc:
        console.print(f"[red]{exc}[/]", highlight=False, soft_wrap=True)
        return BAD_INPUT
    output.parent.mkdir(parents=True, exist_ok=True)
    draw(drawn).savefig(output)
    console.print(f"  {output}", highlight=False, soft_wrap=True)
    return 0


def chosen(names: Sequence[str]) -> list[tuple[Dashboard, Panel]]:
    """Panels of the named dashboards, or of the overview."""
    return [
        (one, panel)
        for one in dashboards(load())
        for panel in one.panels
        if (one.uid in names if names else panel.overview)
    ]


def _ask(
    prometheus: str, dashboard: Dashboard, panel: Panel, end_s: float, minutes: float
) -> list[Series]:
    """The panel's series over the last minutes, largest first.

    Raises:
        PrometheusError: it failed, or refused the query.
    """
    span = {"start": end_s - minutes * 60, "end": end_s, "step": max(1.0, minutes * 60 / _POINTS)}
    series = []
    for query in panel.queries:
        expression = dashboard.filled(query.expression)
        for one in _get(prometheus.rstrip("/"), {"query": expression, **span}):
            values = np.array(one["values"], np.float64)
            values[:, 0] = (values[:, 0] - span["start"]) / 60
            series.append((_legend(query.legend, one["metric"]), values))
    return sorted(series, key=lambda one: -float(np.abs(one[1][:, 1]).max()))


def _get(prometheus: str, parameters: Mapping[str, Any]) -> list[dict[str, Any]]:
    is_here = re.match(r"https?://(127\.0\.0\.1|localhost)\b", prometheus)
    opener = build_opener(ProxyHandler({})) if is_here else build_opener()
    url = f"{prometheus}/api/v1/query_range?{urlencode(parameters)}"
    try:
        with opener.open(url, timeout=_TIMEOUT_S) as answer:
            found: list[dict[str, Any]] = json.load(answer)["data"]["result"]
            return found
    except HTTPError as exc:
        raise PrometheusError(f"{prometheus} refused: {exc.read().decode()}") from exc
    except OSError as exc:
        raise PrometheusError(
            f"no Prometheus answers at {prometheus} ({exc}): start one by "
            "bazel run //infra:observability, or name it by --prometheus"
        ) from exc


def _legend(template: str, labels: Mapping[str, str]) -> str:
    def value(found: re.Match[str]) -> str:
        text = labels.get(found[1], "")
        # Shortens digests and ids.
        return text[:8] if re.fullmatch(r"[0-9a-f-]{32,}", text) else text

    return re.sub(r"\{\{(\w+)\}\}", value, template).strip()


def draw(panels: Sequence[tuple[Panel, Sequence[Series]]]) -> Figure:
    """Plots all panels in one figure, over minutes."""
    rows = math.ceil(len(panels) / _ACROSS)
    with mpl.rc_context(STYLE):
        figure = new_figure(15, 2.9 * rows)
        grid = figure.subplots(rows, _ACROSS, squeeze=False).flat
        for (panel, series), axes in zip(panels, grid, strict=False):
            _draw_panel(axes, panel, series)
        for axes in grid:  # unused cells of the last row
            axes.set_axis_off()
    return figure


def _draw_panel(axes: Axes, panel: Panel, series: Sequence[Series]) -> None:
    if panel.stacked and series:
        minutes = np.unique(np.concatenate([values[:, 0] for _, values in series]))
        layers = np.zeros((len(series), len(minutes)))
        for layer, (_, values) in zip(layers, series, strict=True):
            layer[np.searchsorted(minutes, values[:, 0])] = np.nan_to_num(
                values[:, 1], posinf=0, neginf=0
            )
        axes.stackplot(minutes, layers, labels=[name for name, _ in series], alpha=0.75)
    for number, (name, values) in enumerate(() if panel.stacked else series):
        label = name if name and number < _MOST else None
        axes.plot(values[:, 0], values[:, 1], linewidth=1.4, label=label)
    low, high = axes.get_ylim()
    limit = panel.warn_below if panel.warn_above is None else panel.warn_above
    # A limit far beyond the values would flatten the plot.
    if limit is not None and not panel.stacked and low - high <= limit - low <= 2 * (high - low):
        axes.axhline(limit, color=RED, linewidth=1, linestyle="--")
    axes.set_title(panel.title)
    axes.xaxis.set_major_formatter("{x:g} min")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _FORMATS[panel.unit](value)))
    if not series:
        axes.text(0.5, 0.5, "no data", transform=axes.transAxes, ha="center", color=RED)
    elif axes.get_legend_handles_labels()[1]:
        axes.legend(
            fontsize=7, ncols=min(len(series), 5), loc="upper left", bbox_to_anchor=(0, -0.09)
        )


_FORMATS: Mapping[str, Callable[[float], str]] = {
    "short": lambda value: f"{value:g}",
    "reqps": lambda value: f"{value:g}/s",
    "percentunit": lambda value: f"{value * 100:.4g} %",
    "s": lambda value: f"{value * 1000:g} ms" if abs(value) < 1 else f"{value:g} s",
    "bytes": lambda value: f"{value / 1e6:g} MB",
    "currencyUSD": lambda value: f"${value:g}",
}


def _options() -> argparse.ArgumentParser:
    parser = command_parser("//infra/observability:picture", __doc__)
    parser.add_argument("--prometheus", default="http://127.0.0.1:9090", help="its address")
    parser.add_argument("--minutes", type=float, default=60, help="minutes up to now (60)")
    parser.add_argument(
        "--dashboard",
        action="append",
        default=[],
        choices=[one.uid for one in dashboards(load())],
        help="all panels of this one; may be repeated (default: an overview of all)",
    )
    parser.add_argument("--output", default="dashboards.png", help="PNG or SVG to write")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], terminal()))
