"""Draws the dashboards' panels from a Prometheus, for machines without Grafana.

    bazel run //infra/observability:picture -- --prometheus http://127.0.0.1:9090
    bazel run //infra/observability:picture -- --demonstrate 14 --output docs/dashboards.png

The same queries as the dashboards', over a range of time; matplotlib draws them, not Grafana.
With --demonstrate a stack and the service run for so many minutes under a day's worth of
events: traffic that rises and falls, a candidate that is promoted, a burst of batches, then drift.

Exit codes: 0 drawn, 1 a part did not run, 2 no answer from Prometheus, 130 interrupted.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import ProxyHandler, build_opener

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from rich.console import Console

from common.files import user_path
from common.terminal import terminal
from infra.observability.catalogue import load
from infra.observability.dashboard_panels import Dashboard, Panel
from infra.observability.dashboard_release import dashboards
from infra.observability.stack.programs import StackError

_TIMEOUT_S = 60.0


class PrometheusError(Exception):
    """There was no answer, or none that helps; the message says which."""


class Series(NamedTuple):
    """Labels, and values by time in seconds since 1970."""

    labels: Mapping[str, str]
    times: list[float]
    values: list[float]


class PrometheusClient:
    """A client of one Prometheus server."""

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")
        direct = build_opener(ProxyHandler({}))  # it is on this machine
        self._open = (
            direct.open if "//127.0.0.1" in url or "//localhost" in url else build_opener().open
        )

    def range(self, promql: str, start_s: float, end_s: float, step_s: float) -> list[Series]:
        """Series over a range, gaps left out.

        Raises:
            PrometheusError: no answer, or a query that it refuses.
        """
        parameters = {"query": promql, "start": start_s, "end": end_s, "step": step_s}
        return [
            Series(
                one["metric"],
                [float(at) for at, _ in one["values"]],
                [float(value) for _, value in one["values"]],
            )
            for one in self._get("query_range", parameters)
        ]

    def _get(self, what: str, parameters: Mapping[str, Any]) -> list[dict[str, Any]]:
        url = f"{self._url}/api/v1/{what}?{urlencode(parameters)}"
        try:
            with self._open(url, timeout=_TIMEOUT_S) as answer:
                result: list[dict[str, Any]] = json.load(answer)["data"]["result"]
                return result
        except HTTPError as exc:
            raise PrometheusError(f"{self._url} refused: {exc.read().decode()}") from exc
        except OSError as exc:
            raise PrometheusError(
                f"no Prometheus answers at {self._url} ({exc}): start one by "
                "bazel run //infra:observability, or name it by --prometheus"
            ) from exc


_ACROSS = 3
_MOST = 10  # series in a legend
_INK, _PALE, _ALARM = "#1f2933", "#e4e7eb", "#c0392b"
# A panel with (legend's template, series) for each series that it has.
Drawn = tuple[Panel, Sequence[tuple[str, Series]]]


def draw(panels: Sequence[Drawn], start_s: float, output: Path) -> None:
    """Draws all panels in one figure, over minutes since the start."""
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


FAILED, BAD_INPUT, INTERRUPTED = 1, 2, 130  # exit codes
# What the README shows: (dashboard, title).
OVERVIEW = (
    ("kiln-service", "By route and status"),
    ("kiln-service", "Time to answer /predict"),
    ("kiln-service", "Errors by type"),
    ("kiln-service", "Error budget left, over time"),
    ("kiln-service", "Burn rate of the last hour"),
    ("kiln-service", "Stages, p99"),
    ("kiln-model", "Class mix"),
    ("kiln-model", "Confidence"),
    ("kiln-drift", "PSI of five minutes, by signal"),
    ("kiln-release", "Candidate's share"),
    ("kiln-release", "Requests a second"),
    ("kiln-release", "Golden images answered rightly"),
    ("kiln-service", "Processors used"),
    ("kiln-service", "Memory"),
    ("kiln-drift", "Worst score by signal, in thresholds"),
)


def chosen(names: Sequence[str]) -> list[tuple[Dashboard, Panel]]:
    """Panels of the named dashboards, or those of the overview."""
    known = {one.uid: one for one in dashboards(load())}
    if names:
        return [(known[uid], panel) for uid in names for panel in known[uid].panels]
    found = {(uid, panel.title): panel for uid, one in known.items() for panel in one.panels}
    return [(known[uid], found[uid, title]) for uid, title in OVERVIEW]


def main(arguments: Sequence[str], console: Console) -> int:
    """Entry point of the command."""
    options = _options().parse_args(arguments)
    # Ends as by Ctrl-C, so that nothing is left running.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    output = user_path(options.output)
    try:
        if options.demonstrate:
            _demonstrate(options, output, console)
        else:
            end_s = time.time()
            start_s = end_s - options.minutes * 60
            _draw(options.prometheus, start_s, end_s, options.dashboard, output)
    except PrometheusError as exc:
        console.print(f"[red]{exc}[/]", highlight=False, soft_wrap=True)
        return BAD_INPUT
    except KeyboardInterrupt:
        console.print("interrupted: nothing was drawn", highlight=False)
        return INTERRUPTED
    except StackError as exc:
        console.print(f"[red]{exc}[/]", highlight=False, soft_wrap=True)
        return FAILED
    console.print(f"  {output}", highlight=False, soft_wrap=True)
    return 0


def _demonstrate(options: argparse.Namespace, output: Path, console: Console) -> None:
    from infra.observability.demonstration.demonstration import demonstration

    with tempfile.TemporaryDirectory() as folder:
        for prometheus, start_s in demonstration(Path(folder), options.demonstrate * 60, console):
            _draw(prometheus, start_s, time.time(), options.dashboard, output)


def _draw(
    prometheus: str, start_s: float, end_s: float, names: Sequence[str], output: Path
) -> None:
    client = PrometheusClient(prometheus)
    step_s = max(1.0, (end_s - start_s) / 240)
    ranges = [
        (
            panel,
            [
                (query.legend, series)
                for query in panel.queries
                for series in client.range(
                    dashboard.filled(query.expression), start_s, end_s, step_s
                )
            ],
        )
        for dashboard, panel in chosen(names)
    ]
    draw(ranges, start_s, output)


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bazel run //infra/observability:picture --",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--prometheus", default="http://127.0.0.1:9090", help="its address")
    parser.add_argument("--minutes", type=float, default=60, help="up to now (60)")
    parser.add_argument("--demonstrate", type=float, default=0, help="minutes to run, see above")
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
