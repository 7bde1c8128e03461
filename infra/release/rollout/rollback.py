"""A manual rollback to any published version, by one call."""

from __future__ import annotations

from dataclasses import asdict, replace

from infra.release.aws.clients import Clock, iso
from infra.release.aws.function import Alias, CallFailed, LambdaFunction
from infra.release.errors import ReleaseError
from infra.release.rollout.notices import Notices
from infra.release.rollout.timeline import Timeline
from infra.release.rollout.traffic import verify
from infra.release.state.journal import Journal
from infra.release.state.ledger import Decision, Outcome
from infra.release.state.progress import live_before


def choose_version(function: LambdaFunction, journal: Journal, to: str | None) -> str:
    """Where a rollback goes: as asked, else to stable of the release that runs, else to the
    version that was live before.

    Raises:
        ReleaseError: there is no such version.
    """
    newest = journal.records[-1].decision if journal.records else None
    if to is None and newest and newest.kind == "roll back":  # it was decided, and not finished
        to = newest.from_version
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
    pending = journal.records and journal.records[-1].decision.kind == "roll back"
    return alias.weights == {version: 1.0} and not (pending or journal.unfinished)


def roll_back_to(
    env: str,
    who: str,
    version: str,
    why: str,
    function: LambdaFunction,
    journal: Journal,
    notices: Notices,
    timeline: Timeline,
    clock: Clock,
    within_s: float,
) -> Outcome:
    """Moves the alias, verifies it, and ends the release that may be running.

    Raises:
        NotVerified: callers are not answered by that version in time.
    """
    decision = journal.insist(lambda: _decision(who, version, why, function, journal, clock))
    start = clock.now()
    function.point(version, {})
    timeline.event(f"traffic: {Alias(version)}", "cyan")
    model = verify(function, version, _model(function, version), within_s, clock)
    took = clock.now() - start
    ended = replace(decision, kind="rolled back", when=iso(clock.now()), model_version=model)
    notices.measure(0, 0.0, "roll back")
    notices.tell(env, ended)
    journal.append(ended)
    return Outcome("rolled back", f"version {version} answers, after {took:.1f} s", asdict(ended))


def _decision(
    who: str,
    version: str,
    why: str,
    function: LambdaFunction,
    journal: Journal,
    clock: Clock,
) -> Decision:
    """The ledger record of a rollback: `from` is the version that it returns to, `to` the one
    that it leaves."""
    now, alias = journal.unfinished, function.alias()
    left = now.candidate if now and now.candidate else alias.version
    return Decision(
        kind="roll back",
        release=now.release if now else journal.new_release(),
        who=who,
        when=iso(clock.now()),
        from_digest=function.digest(version),
        to_digest=function.digest(left),
        from_version=version,
        to_version=left,
        weights={version: 1.0},
        verdict="by hand",
        why=why,
        evidence={"alias_before": alias.weights},
    )


def _model(function: LambdaFunction, version: str) -> str | None:
    try:
        return str(function.model_info(version).get("version"))
    except CallFailed:
        return None  # what calls of the alias answer is looked at next
