"""Deletes an environment's service: function, API, alarms.

Images, the models' registry and the release ledger belong to Terraform's root `registry` and stay.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict

from rich.console import Console

from infra.release.aws.clients import iso
from infra.release.commands.command import (
    Open,
    Result,
    Terminal,
    aws_of,
    entry,
    parser,
    required,
    run,
    settings_of,
)
from infra.release.errors import Refused
from infra.release.rollout.context import ReleaseContext
from infra.release.state.ledger import Decision
from infra.terraform.program import show_plan


def main(arguments: Sequence[str], out: Console, errors: Console, open_: Open | None = None) -> int:
    """Runs the command; returns its exit code."""
    return run(_options().parse_args(arguments), destroy, open_, out, errors)


def destroy(options: argparse.Namespace, terminal: Terminal, open_: Open) -> Result:
    """Plans the deletion, asks, and deletes."""
    settings, infrastructure = settings_of(options), open_(options, terminal)
    outputs = infrastructure.outputs()
    context = None  # where the first deploy failed half-way there is neither alias nor release
    if outputs:
        aws = aws_of(settings, outputs)
        context = ReleaseContext.open(options.env, settings, aws, outputs, terminal.log)
        _demand_no_release(context)
    plan = infrastructure.plan_destruction()
    if not plan.changed:
        required(outputs, options.env)
    data = {"env": options.env, "destroyed": [asdict(change) for change in plan.changes]}
    show_plan(plan, f"service of {options.env}, to be destroyed", terminal.log)
    if options.dry_run:
        return Result({**data, "dry_run": True}, lambda c: c.print("Dry run: nothing was changed."))
    terminal.confirm(f"Destroy the service of {options.env}? Callers get no answer any more.")
    if context is None:
        infrastructure.destroy()
    else:
        with context.lease.held(context.who, "destroy"):
            _record(context)
            infrastructure.destroy()
    return Result(data, lambda console: console.print("[bold]DESTROYED[/]"))


def _demand_no_release(context: ReleaseContext) -> None:
    if (now := context.journal().unfinished) is not None:
        raise Refused(
            f"release {now.release} has not ended: deploy its image again, or roll back first"
        )


def _record(context: ReleaseContext) -> None:
    """The ledger outlives the service: later versions are others with the same numbers."""
    journal, alias = context.journal(), context.function.alias()
    digest = context.function.digest(alias.version)
    journal.append(
        Decision(
            kind="destroyed",
            release=journal.new_release(),
            who=context.who,
            when=iso(context.clock.now()),
            from_digest=digest,
            to_digest=None,
            from_version=alias.version,
            to_version=None,
        )
    )


def _options() -> argparse.ArgumentParser:
    found = parser("destroy", __doc__ or "", "--env dev --dry-run", "--env dev --yes")
    found.add_argument("--dry-run", action="store_true", help="say what would be deleted")
    return found


if __name__ == "__main__":
    entry(main)
