"""Sends copies of requests to a version without traffic and reports where it disagrees.

Requests are JSON lines {"image": base64}, from a file or as they come (-), or the golden set. No
caller waits for any of it. Exit code 1 if more than --most of the answers differ.
"""

from __future__ import annotations

import argparse
import base64
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from typing import TextIO

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from common.command_line import positive
from common.files import user_path
from infra.release.commands.command import (
    Open,
    Result,
    Terminal,
    entry,
    golden_of,
    open_context,
    parser,
    run,
)
from infra.release.errors import REFUSED, ReleaseError
from infra.release.evidence.shadow import Disagreement, sampled, shadow

_LISTED = 10


def main(arguments: Sequence[str], out: Console, errors: Console, open_: Open | None = None) -> int:
    """Runs the command; returns its exit code."""
    return run(_options().parse_args(arguments), compare, open_, out, errors)


def compare(options: argparse.Namespace, terminal: Terminal, open_: Open) -> Result:
    """Sends shadow traffic to a version and reports the differences."""
    context = open_context(options, terminal, open_)
    function, timeline = context.function, context.timeline
    function.demand(options.candidate)
    stable = function.alias().version
    images = sampled(_images(options), options.share)
    for version in (stable, options.candidate):
        function.send_as_alias_does(version)
    with timeline.shown("comparing"):
        found = shadow(
            function,
            stable,
            options.candidate,
            images,
            options.rate,
            context.collector.lines,
            context.clock,
            options.wait,
            timeline.wait,
        )
    data = {"stable": stable, "candidate": options.candidate, "share": found.share, **asdict(found)}
    code = REFUSED if found.share > options.most else 0
    return Result(data, partial(_show, stable, options.candidate, found), code)


def _images(options: argparse.Namespace) -> Iterable[bytes]:
    if options.requests is None:
        golden = golden_of(options.golden)
        return [image.data for image in golden.images] if golden else []
    if options.requests == "-":
        return _read(sys.stdin)
    path = user_path(options.requests)
    try:
        return _read(path.open(encoding="utf-8", errors="replace"))  # `_read` names the line
    except OSError as exc:
        raise ReleaseError(f"{path} cannot be read ({exc.strerror})") from exc


def _read(file: TextIO) -> Iterator[bytes]:
    with file:
        for number, line in enumerate(file, start=1):
            try:
                yield base64.b64decode(json.loads(line)["image"], validate=True)
            except (ValueError, KeyError, TypeError) as exc:
                raise ReleaseError(
                    f'line {number}: expected {{"image": base64}} ({exc!r})'
                ) from exc


def _show(stable: str, candidate: str, found: Disagreement, console: Console) -> None:
    table = Table(title=f"Version {candidate} in the shadow of {stable}", title_justify="left")
    for name in ("", f"stable {stable}", f"candidate {candidate}"):
        table.add_column(name, justify="left" if not name else "right")
    table.add_row("failed", *(f"{count:,}" for count in found.failed))
    table.add_row("mean confidence", *(f"{value:.3f}" for value in found.confidence))
    table.add_row("p99 of the time", *(f"{1000 * value:.1f} ms" for value in found.slowest))
    console.print(table)
    console.print(
        f"{found.sent:,} requests, {found.answered:,} answered by both: {found.apart:,} "
        f"differently ({found.share:.2%})",
        highlight=False,
    )
    for before, after, count in found.pairs[:_LISTED]:
        console.print(f"  {count:6,}  {escape(before)} → {escape(after)}", highlight=False)


def _share(text: str) -> float:
    if not 0 <= (number := float(text)) <= 1:
        raise argparse.ArgumentTypeError(f"expected a share from 0 to 1, got {text}")
    return number


def _options() -> argparse.ArgumentParser:
    found = parser(
        "shadow",
        __doc__ or "",
        "--env prod --candidate 13",
        "--env prod --candidate 13 --requests sampled.jsonl --share 0.1 --rate 20",
    )
    found.add_argument("--candidate", required=True, metavar="VERSION", help="published version")
    found.add_argument(
        "--requests", metavar="FILE", help="JSON lines, - for standard input (default: golden set)"
    )
    found.add_argument("--golden", metavar="FILE", help="golden set (default: the bundled one)")
    found.add_argument("--share", type=_share, default=1.0, help="of the requests (%(default)s)")
    found.add_argument(
        "--rate", type=positive, default=10.0, help="requests a second (%(default)s)"
    )
    found.add_argument(
        "--wait",
        type=positive,
        default=60.0,
        metavar="S",
        help="for the log (%(default)s)",
    )
    found.add_argument(
        "--most", type=_share, default=1.0, metavar="SHARE", help="of answers that may differ"
    )
    return found


if __name__ == "__main__":
    entry(main)
