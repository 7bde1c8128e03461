"""Lists, filters and compares runs: ``bazel run //ml:runs``."""

import argparse
import json
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from common.command_line import command_parser, count
from common.files import user_path, write_whole
from common.terminal import duration, plural, terminal
from ml.runs.comparison import (
    ComparisonError,
    Record,
    changed,
    check_name,
    find_runs,
    newest_first,
    ordered,
    read_record,
    shown,
    shown_score,
    where,
)

BAD_INPUT = 2  # exit code
_STYLES = {"finished": "green", "running": "cyan", "stopped": "yellow", "pruned": "dim"}
_HELP = """\
examples:
  bazel run //ml:runs                                   all below runs/ and multirun/, newest first
  bazel run //ml:runs -- --sort test/accuracy           the most accurate first
  bazel run //ml:runs -- --where 'test/accuracy>0.9' --where 'network.widths=[16,64,64]'
  bazel run //ml:runs -- --show optimizer.filter_lr,seed      two more columns
  bazel run //ml:runs -- --compare runs/<one> runs/<other>    what changed, and its effect
  bazel run //ml:runs -- multirun/smoke --sort val/accuracy --limit 10 --html best.html
  bazel run //ml:runs -- --json | jq '.[].metrics'

A name is a metric (test/accuracy, val/loss, training_s), a value of the configuration
(optimizer.filter_lr, data.batch_size), or git_revision, dataset_digest, device, state, kind,
folder; --names lists them all. Conditions: =, !=, <, <=, >, >=; words may hold * and ?. All of
them must hold.

States: finished; running; stopped (killed or interrupted: bazel run //ml:train resume=runs/<folder>
continues it); pruned and failed for a sweep's trials; damaged (a file of it cannot be read).
Exit codes: 0, also if no run is left; 2 bad input.
"""


def main(arguments: Sequence[str], console: Console) -> int:
    """Entry point of the command."""
    options = _parser().parse_args(arguments)
    try:
        records = _chosen(options)
        for name in (*options.show, *(["state"] if options.names else [])):
            check_name(records, name)
    except ComparisonError as exc:
        print(exc, file=sys.stderr)
        return BAD_INPUT
    if options.names:
        for name in sorted(set().union(*(record.names() for record in records))):
            console.print(name, highlight=False, markup=False)
        return 0
    if options.html:
        from ml.runs.comparison_page import render  # imports Matplotlib

        path = user_path(options.html)
        try:
            write_whole(path, render(records, options.show))
        except OSError as exc:
            print(f"{path} is not written: {exc.strerror}", file=sys.stderr)
            return BAD_INPUT
        console.print(f"{path}: {plural(len(records), 'run')}", highlight=False, soft_wrap=True)
    elif options.json:
        print(json.dumps([_as_dict(record) for record in records], indent=2, allow_nan=False))
    else:
        print_runs(records, options.show, console)
        if options.compare:
            print_changes(records, console)
    return 0


def _chosen(options: argparse.Namespace) -> list[Record]:
    """The requested runs, in order.

    Raises:
        ComparisonError: there are no runs, or a condition or name is invalid.
    """
    home = Path(os.environ.get("BUILD_WORKSPACE_DIRECTORY", ""))
    usual = [home / name for name in ("runs", "multirun") if (home / name).is_dir()]
    paths = find_runs([user_path(text) for text in options.places] or usual)
    if not paths:
        where_to = ", ".join(options.places) or f"{home / 'runs'} and {home / 'multirun'}"
        raise ComparisonError(f"no run in {where_to}: bazel run //ml:train makes one")
    records = [read_record(path) for path in paths]
    for condition in options.where:
        records = where(records, condition)
    records = ordered(records, options.sort) if options.sort else newest_first(records)
    if options.reverse:
        records.reverse()
    return records[: options.limit]


def print_runs(records: Sequence[Record], show: Sequence[str], console: Console) -> None:
    """One row per run: progress, metrics, and requested columns."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("run", "state", "epochs", "best on validation", "test/accuracy", "time", *show):
        table.add_column(name, justify="left" if name in ("run", "state") else "right")
    table.columns[0].overflow = "fold"
    for record in records:
        metric = record.monitored
        best = record.metrics.get(metric)
        seconds = record.metrics.get("training_s", math.nan)
        table.add_row(
            record.label,
            f"[{_STYLES.get(record.state, 'red')}]{record.state}[/]",
            record.epochs,
            "–" if best is None else f"{metric} {shown_score(best)}",
            shown_score(record.metrics.get("test/accuracy")),
            "–" if math.isnan(seconds) else duration(seconds),
            *(escape(record.text(name)) for name in show),
        )
    console.print(table)
    for record in records:
        if record.problem:
            text = f"{record.path}: {record.problem}"
            console.print(text, style="red", markup=False, soft_wrap=True)
    console.print(plural(len(records), "run"), style="dim", highlight=False)


def print_changes(records: Sequence[Record], console: Console) -> None:
    """One row per value that differs between runs, one column per run."""
    differences = changed(records)
    if not differences:
        console.print("\nThe same configuration, code, packages and data in all of them.")
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("changed")
    for record in records:
        table.add_column(record.label, overflow="fold", min_width=10)
    for name, values in differences.items():
        table.add_row(name, *(shown(value) for value in values))
    console.print()
    console.print(table, markup=False)


def _as_dict(record: Record) -> dict[str, Any]:
    finite = {
        name: value if math.isfinite(value) else None for name, value in record.metrics.items()
    }
    return {
        "run": str(record.path),
        "kind": record.kind,
        "state": record.state,
        "started": record.started.isoformat() if record.started else None,
        "epochs": len(record.rows),
        "metrics": finite,
        "config": dict(record.config),
        "origin": dict(record.origin),
        **({"problem": record.problem} if record.problem else {}),
    }


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("//ml:runs", "List, filter and compare runs.", _HELP)
    add = parser.add_argument
    where_from = "run folders or their parents (default: runs/ and multirun/)"
    add("places", nargs="*", metavar="FOLDER", help=where_from)
    add("--where", action="append", default=[], metavar="NAME=VALUE", help="filter; repeatable")
    add("--sort", metavar="NAME", help="sort best first, or ascending (default: newest first)")
    add("--reverse", action="store_true", help="reverse the order")
    add("--limit", type=count, metavar="N", help="show at most N")
    add("--show", type=lambda text: text.split(","), default=[], metavar="NAMES", help="columns")
    add("--compare", action="store_true", help="list the values that differ between them")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--html", metavar="PAGE", help="write a page with curves and differences")
    form.add_argument("--json", action="store_true", help="print JSON")
    form.add_argument("--names", action="store_true", help="list names for --where, --sort, --show")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], terminal(160)))
