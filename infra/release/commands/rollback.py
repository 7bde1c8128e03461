"""Rolls back to an earlier version with one call, and checks that it answers.

Without --to, traffic returns to the stable version of the release in progress, or else to the
previous version. A release in progress is ended. After an automatic rollback nothing is left to do.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict, replace

from rich.console import Console
from rich.markup import escape

from common.terminal import Progress
from infra.release.aws.clients import iso
from infra.release.aws.function import Alias, CallFailed, LambdaFunction
from infra.release.commands.command import (
    Open,
    Result,
    Terminal,
    entry,
    open_context,
    parser,
    run,
)
from infra.release.errors import ReleaseError
from infra.release.rollout.context import ReleaseContext
from infra.release.rollout.traffic import verify
from infra.release.state.journal import Journal
from infra.release.state.ledger import Decision, Outcome, live_before

BY_HAND = "by hand"  # verdict of a rollback that a person asked for


def main(arguments: Sequence[str], out: Console, errors: Console, open_: Open | None = None) -> int:
    """Runs the command; returns its exit code."""
    return run(_options().parse_args(arguments), rollback, open_, out, errors)


def rollback(options: argparse.Namespace, terminal: Terminal, open_: Open) -> Result:
    """Moves the alias to one version."""
    context = open_context(options, terminal, open_)
    function, journal = context.function, context.journal()
    alias, holder = function.alias(), context.lease.holder()
    if options.to is None and (done := rolled_back_already(alias, journal)) is not None:
        return _unchanged(context, str(done.from_version), terminal, _what_was_done(done))
    version = choose_version(function, journal, options.to)
    if holder is None and is_there(alias, journal, version):
        return _unchanged(context, version, terminal)
    if options.dry_run:
        text = f"would move all traffic to version {version} (now {alias}); nothing was changed"
        data = {"dry_run": True, "alias": alias.weights, "to": version}
        return Result(data, lambda console: console.print(text, highlight=False))
    running = f", and stop {holder.who}'s `{holder.what}`" if holder else ""
    terminal.confirm(f"Roll {options.env} back to version {version}{running}? Now {alias}.")
    what = f"rollback to {version}"
    with (
        context.lease.held(context.who, what, take_over=True),
        context.timeline.shown("rolling back"),
    ):
        outcome = roll_back_to(context, version, options.reason)
    data = {"outcome": outcome.kind, "text": outcome.text, "record": dict(outcome.data)}

    def show(console: Console) -> None:
        console.print(f"[bold green]ROLLED BACK[/]  {escape(outcome.text)}", highlight=False)

    return Result(data, show)  # asked for, so 0: a release that is rolled back exits with 20


def rolled_back_already(alias: Alias, journal: Journal) -> Decision | None:
    """The automatic rollback, if it is the newest record and the alias is still there: rolling back
    again would go one version too far."""
    newest = journal.records[-1].decision if journal.records else None
    if newest is None or newest.kind != "rolled back" or newest.verdict == BY_HAND:
        return None
    return newest if alias.weights == {newest.from_version: 1.0} else None


def _what_was_done(done: Decision) -> str:
    return (
        f"; release {done.release} was rolled back from version {done.to_version} by {done.who} at "
        f"{done.when[:19]} UTC ({done.verdict}): {done.why}. --to VERSION goes further back"
    )


def _unchanged(context: ReleaseContext, version: str, terminal: Terminal, why: str = "") -> Result:
    """Reports that there is nothing to move, after verifying that callers are answered."""
    with Progress(f"asking version {version}", console=terminal.log):
        verify(context.function, version, None, context.settings.rollback_s, context.clock)
    text = f"version {version} has all traffic already, and answers{why}"
    data = {"outcome": "unchanged", "text": text, "record": {}}

    def show(console: Console) -> None:
        console.print(f"[bold green]UNCHANGED[/]  {escape(text)}", highlight=False)

    return Result(data, show)


def choose_version(function: LambdaFunction, journal: Journal, to: str | None) -> str:
    """The rollback's target: the version asked for, else the running release's stable version,
    else the version that was live before.

    Raises:
        ReleaseError: there is no such version.
    """
    if to is None and (pending := journal.pending_rollback):
        to = pending.from_version
    if to is None and (now := journal.unfinished) is not None:
        to = now.stable
    to = to or live_before(journal.records, function.alias().version)
    if to is None:
        raise ReleaseError(
            "the ledger knows no version before this one: name one with --to; there are "
            f"{', '.join(function.versions()) or 'none'}"
        )
    function.demand(to)
    return to


def is_there(alias: Alias, journal: Journal, version: str) -> bool:
    """Whether a rollback has nothing to move and nothing to end."""
    is_over = not (journal.pending_rollback or journal.unfinished)
    return alias.weights == {version: 1.0} and is_over


def roll_back_to(context: ReleaseContext, version: str, why: str) -> Outcome:
    """Moves the alias, verifies it, and ends the release that may be running.

    Raises:
        NotVerified: callers are not answered by that version in time.
    """
    journal, function, clock = context.journal(), context.function, context.clock
    decision = journal.insist(lambda: _decision(context, journal, version, why))
    start = clock.now()
    function.point(version, {})
    context.timeline.event(f"traffic: {Alias(version)}", "cyan")
    within_s = context.settings.rollback_s
    model = verify(function, version, _model(function, version), within_s, clock)
    took = clock.now() - start
    ended = replace(decision, kind="rolled back", when=iso(clock.now()), model_version=model)
    context.notices.measure(0, 0.0, "roll back")
    context.notices.tell(context.env, ended)
    journal.append(ended)
    return Outcome("rolled back", f"version {version} answers, after {took:.1f} s", asdict(ended))


def _decision(context: ReleaseContext, journal: Journal, version: str, why: str) -> Decision:
    """The ledger record of a rollback: `from` is the version that it returns to, `to` the one
    that it leaves."""
    function, now, pending = context.function, journal.unfinished, journal.pending_rollback
    alias = function.alias()
    left = now.candidate if now and now.candidate else alias.version
    if pending:  # the alias may have been moved already
        left = str(pending.to_version)
    return Decision(
        kind="roll back",
        release=now.release if now else pending.release if pending else journal.new_release(),
        who=context.who,
        when=iso(context.clock.now()),
        from_digest=function.digest(version),
        to_digest=function.digest(left),
        from_version=version,
        to_version=left,
        weights={version: 1.0},
        verdict=BY_HAND,
        why=why,
        evidence={"alias_before": alias.weights},
    )


def _model(function: LambdaFunction, version: str) -> str | None:
    try:
        return str(function.model_info(version).get("version"))
    except CallFailed:
        return None  # what calls of the alias answer is looked at next


def _options() -> argparse.ArgumentParser:
    found = parser("rollback", __doc__ or "", "--env prod", "--env prod --to 12 --yes")
    found.add_argument("--to", metavar="VERSION", help="any published version of the function")
    found.add_argument("--dry-run", action="store_true", help="say where it would go")
    found.add_argument("--reason", default="", metavar="TEXT", help="kept in the ledger")
    return found


if __name__ == "__main__":
    entry(main)
