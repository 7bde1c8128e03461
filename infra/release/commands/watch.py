"""Resumes a release whose process is gone, until it is promoted or rolled back.

A scheduler calls it at any interval. It leaves a live run alone, and a release that waits for a
person unless a paging alarm is raised. It ends a release that has no traffic yet.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from rich.console import Console
from rich.markup import escape

from common.command_line import positive
from common.golden import GoldenSet
from infra.release.aws.clients import Aws, Clock
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
from infra.release.errors import Refused
from infra.release.rollout.context import ReleaseContext
from infra.release.rollout.looks import Looks
from infra.release.rollout.preflight import Image
from infra.release.rollout.rollout import Rollout, Wanted
from infra.release.settings import read_settings
from infra.release.state.journal import Journal, place_of
from infra.release.state.ledger import Outcome
from infra.terraform.service import parse_service_outputs

WITHIN_S = 600.0
_LEFT_S = 90.0  # of a call of Lambda: a rollback is verified within 30 s, a look takes as long
_GONE = "the run that released it is gone, and no traffic was moved: deploy it again"


class TimeUp(Exception):
    """This call has used up its time; the next one continues from the ledger."""


@dataclass(frozen=True)
class BoundedClock:
    """A clock that raises TimeUp instead of sleeping past the end of this call."""

    clock: Clock
    until_s: float

    def now(self) -> float:
        return self.clock.now()

    def sleep(self, seconds: float) -> None:
        if self.now() + seconds > self.until_s:
            raise TimeUp
        self.clock.sleep(seconds)


@dataclass(frozen=True)
class Watched:
    """Result of one check: nothing to do, or the outcome of the release."""

    kind: str  # "idle", "running", "waiting", "continued", or how the release ended
    text: str
    record: dict[str, Any]


def main(arguments: Sequence[str], out: Console, errors: Console, open_: Open | None = None) -> int:
    """Runs the command; returns its exit code."""
    return run(_options().parse_args(arguments), watch, open_, out, errors)


def watch(options: argparse.Namespace, terminal: Terminal, open_: Open) -> Result:
    """Checks an environment once."""
    golden = golden_of(options.golden)
    context = open_context(options, terminal, open_)
    found = look_after(context, golden, options.within)
    data = {"outcome": found.kind, "text": found.text, "record": found.record}

    def show(console: Console) -> None:
        text = f"[bold]{found.kind.upper()}[/]  {escape(found.text)}"
        console.print(text, highlight=False, soft_wrap=True)

    return Result(data, show)


def handler(event: object, call: Any) -> dict[str, str]:
    """The same check as a Lambda function, which Terraform's root `service` schedules.

    Raises:
        ReleaseError: it could not look, or callers are answered wrongly; Lambda counts an error.
    """
    env = os.environ["KILN_ENV"]
    outputs = parse_service_outputs(json.loads(os.environ["KILN_SERVICE_OUTPUTS"]))
    settings = read_settings(env)
    aws = Aws(outputs.region, settings.invoke_timeout_s)
    context = ReleaseContext.open(env, settings, aws, outputs, Console(width=200))
    context = replace(context, who=call.function_name)
    found = look_after(
        context, golden_of(None), call.get_remaining_time_in_millis() / 1000 - _LEFT_S
    )
    return {"outcome": found.kind, "text": found.text}


def look_after(context: ReleaseContext, golden: GoldenSet | None, within_s: float) -> Watched:
    """Resumes an abandoned release, if there is one, for a limited time.

    Raises:
        NotVerified: the alias was moved, and callers are answered wrongly.
    """
    if context.journal().unfinished is None:
        return Watched("idle", "no release is under way", {})
    if holder := context.lease.holder():
        return Watched("running", f"{holder.who} runs `{holder.what}`", {})
    until_s = context.clock.now() + within_s
    context = replace(context, clock=BoundedClock(context.clock, until_s))
    try:
        with (
            context.lease.held(context.who, "watch") as before,
            context.timeline.shown("watching"),
        ):
            if before:
                context.timeline.event(f"{before.who} is gone (`{before.what}`)", "yellow")
            return _go_on(context, golden)
    except TimeUp:
        now = context.journal().progress
        text = f"release {now.release} is at {place_of(now)}; the next call goes on with it"
        return Watched("continued", text, {})
    except Refused as exc:  # somebody else has the lease, since before or from now on
        return Watched("running", str(exc), {})


def _go_on(context: ReleaseContext, golden: GoldenSet | None) -> Watched:
    journal = context.journal()
    now = journal.unfinished
    if now is None:
        return Watched("idle", "its run has just ended the release", {})
    if now.is_stopped:
        objection = Looks(context, journal, golden).alarm_objection()
        ours = {str(now.stable), str(now.candidate)}
        if objection is None or set(context.function.alias().weights) - ours:
            text = f"release {now.release} waits for a person: deploy it again, or roll it back"
            return Watched("waiting", text, {})
        weights = {str(now.stable): 1.0}
        journal.write(
            "roll back", weights, step=now.step, verdict=objection.verdict, why=objection.why
        )
    elif now.step < 0 and now.ending is None:
        return _of(_end_without_traffic(context, journal))
    wanted = Wanted(Image("", "", now.digest), now.strategy)
    return _of(Rollout(context, wanted, golden, None).run())


def _end_without_traffic(context: ReleaseContext, journal: Journal) -> Outcome:
    """Ends a release that callers have not met; it can be deployed again."""
    weights = {str(journal.progress.stable): 1.0}
    decision = journal.write("failed", weights, verdict="failed", why=_GONE)
    context.notices.tell(context.env, decision)
    return Outcome("failed", _GONE, asdict(decision))


def _of(outcome: Outcome) -> Watched:
    return Watched(outcome.kind, outcome.text, dict(outcome.data))


def _options() -> argparse.ArgumentParser:
    found = parser("watch", __doc__ or "", "--env prod", "--env prod --within 240 --json")
    found.add_argument(
        "--golden", metavar="FILE", help="golden set (default: the bundled one), or none"
    )
    found.add_argument(
        "--within",
        type=positive,
        default=WITHIN_S,
        metavar="SECONDS",
        help=f"then the next call goes on (default: {WITHIN_S:g})",
    )
    return found


if __name__ == "__main__":
    entry(main)
