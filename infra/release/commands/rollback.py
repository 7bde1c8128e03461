"""Rolls back to an earlier version with one call, and checks that it answers.

Without --to it goes to stable of the release that runs, or else to the version before. A release
that runs is stopped by it.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape

from common.terminal import Progress
from infra.release.commands.command import Answer, Open, Terminal, entry, parser, run
from infra.release.commands.session import Session, aws_of, required, settings_of
from infra.release.rollout.rollback import choose_version, is_there, roll_back_to
from infra.release.rollout.timeline import ConsoleTimeline
from infra.release.rollout.traffic import verify


def main(arguments: Sequence[str], out: Console, errors: Console, open_: Open | None = None) -> int:
    """Runs the command; returns its exit code."""
    return run(_options().parse_args(arguments), rollback, open_, out, errors)


def rollback(options: argparse.Namespace, terminal: Terminal, open_: Open) -> Answer:
    """Moves the alias to one version."""
    settings = settings_of(options)
    outputs = required(open_(options, terminal).outputs(), options.env)
    session = Session(options.env, settings, aws_of(settings, outputs), outputs, terminal)
    journal = session.journal()
    version = choose_version(session.function, journal, options.to)
    alias, holder = session.function.alias(), session.lease.holder()
    if holder is None and is_there(alias, journal, version):
        return _unchanged(session, version)
    if options.dry_run:
        text = f"would move all traffic to version {version} (now {alias}); nothing was changed"
        data = {"dry_run": True, "alias": alias.weights, "to": version}
        return Answer(data, lambda console: console.print(text, highlight=False))
    running = f", and stop {holder.who}'s `{holder.what}`" if holder else ""
    terminal.confirm(f"Roll {options.env} back to version {version}{running}? Now {alias}.")
    timeline = ConsoleTimeline(terminal.log)
    what = f"rollback to {version}"
    with session.lease.held(session.who, what, take_over=True), timeline.shown("rolling back"):
        outcome = roll_back_to(
            options.env,
            session.who,
            version,
            options.reason,
            session.function,
            session.journal(),
            session.notices,
            timeline,
            session.clock,
            settings.rollback_s,
        )
    data = {"outcome": outcome.kind, "text": outcome.text, "record": dict(outcome.data)}

    def show(console: Console) -> None:
        console.print(f"[bold green]ROLLED BACK[/]  {escape(outcome.text)}", highlight=False)

    return Answer(data, show)  # asked for, so 0: a release that is rolled back exits with 20


def _unchanged(session: Session, version: str) -> Answer:
    """Nothing is to be moved, and whether callers are answered is looked at all the same."""
    with Progress(f"asking version {version}", console=session.terminal.log):
        verify(session.function, version, None, session.settings.rollback_s, session.clock)
    text = f"version {version} has all traffic already, and answers"
    data = {"outcome": "unchanged", "text": text, "record": {}}

    def show(console: Console) -> None:
        console.print(f"[bold green]UNCHANGED[/]  {text}", highlight=False)

    return Answer(data, show)


def _options() -> argparse.ArgumentParser:
    found = parser("rollback", __doc__ or "", "--env prod", "--env prod --to 12 --yes")
    found.add_argument("--to", metavar="VERSION", help="any published version of the function")
    found.add_argument("--dry-run", action="store_true", help="say where it would go")
    found.add_argument("--reason", default="", metavar="TEXT", help="kept in the ledger")
    return found


if __name__ == "__main__":
    entry(main)
