"""Draws the dashboards' panels from a Prometheus, where no Grafana can run.

    bazel run //infra/observability:picture -- --prometheus http://127.0.0.1:9090
    bazel run //infra/observability:picture -- --demonstrate 14 --output docs/dashboards.png

The same queries as the dashboards', over a range of time; matplotlib draws them, not Grafana.
With --demonstrate a stack and the service run for so many minutes under a day's worth of
events: traffic that rises and falls, a canary that is promoted, a burst of batches, then drift.

Exit codes: 0 drawn, 1 a part did not run, 2 no answer from Prometheus, 130 interrupted.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from infra.observability.catalogue import load
from infra.observability.dashboards.everything import dashboards
from infra.observability.dashboards.panels import Dashboard, Panel
from infra.observability.drawing import draw
from infra.observability.prometheus_client import PrometheusClient, PrometheusError
from infra.observability.stack.programs import StackError
from tools.terminal import terminal

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
    ("kiln-release", "Canary's share"),
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
    """The command's entry."""
    options = _options().parse_args(arguments)
    # Ends as by Ctrl-C, so that nothing is left running.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    output = Path(os.environ.get("BUILD_WORKING_DIRECTORY", ""), options.output)
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
    from infra.observability.demonstration import demonstration

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
