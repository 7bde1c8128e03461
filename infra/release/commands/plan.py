"""Shows what Terraform would change for an image, and changes nothing."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial

from rich.console import Console

from infra.release.commands.command import (
    Open,
    Result,
    Terminal,
    aws_of,
    entry,
    image_of,
    parser,
    run,
    settings_of,
)
from infra.release.errors import HELD, Refused
from infra.release.rollout.preflight import check_image
from infra.terraform.program import show_plan


def main(arguments: Sequence[str], out: Console, errors: Console, open_: Open | None = None) -> int:
    """Runs the command; returns its exit code."""
    return run(_options().parse_args(arguments), plan, open_, out, errors)


def plan(options: argparse.Namespace, terminal: Terminal, open_: Open) -> Result:
    """Plans the change and shows it."""
    settings, infrastructure = settings_of(options), open_(options, terminal)
    outputs = infrastructure.outputs()
    aws = aws_of(settings, outputs)
    image = image_of(options.image, aws, outputs)
    if not (check := check_image(aws, image)).passed:
        raise Refused(f"{check.name}: {check.detail}")
    found = infrastructure.plan(image.uri)
    data = {
        "changed": found.changed,
        "counts": found.counts,
        "changes": [asdict(change) for change in found.changes],
    }
    show = partial(show_plan, found, f"service of {options.env}")
    return Result(data, show, HELD if found.changed else 0)


def _options() -> argparse.ArgumentParser:
    found = parser("plan", __doc__ or "", "--env prod --image sha256:9c1f…")
    found.add_argument(
        "--image", required=True, metavar="URI", help="REPOSITORY@sha256:…, or the digest alone"
    )
    return found


if __name__ == "__main__":
    entry(main)
