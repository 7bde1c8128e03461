"""The twin's expectations, and whether they held."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from infra.twin.deployment import PROMOTED, ROLLED_BACK, Deployment
from infra.twin.load import Answer
from infra.twin.traffic import Traffic

MOST_ROLLBACK_S = 60.0
# Calls under way when a release ends, and what is told late.
_SETTLE_S = 3.0


@dataclass(frozen=True)
class Release:
    """One release of the scenario.

    Attributes:
        fails: what of the candidate's calls fail, as a share; 0 for a release that fails none.
        version: the candidate's, if it got one.
        stable: the version before it.
    """

    name: str
    good: bool
    fails: float
    deployment: Deployment
    version: str | None
    stable: str


@dataclass(frozen=True)
class Finding:
    """A promise, and what was seen of it."""

    promise: str
    kept: bool
    seen: str


@dataclass(frozen=True)
class Measured:
    """Numbers of one release."""

    requests: int
    failed: int
    statuses: Mapping[int, int]  # of those that failed; 0 where the connection broke
    canary_calls: int
    canary_failed: int
    canary_errors: Mapping[str, int]  # by type, as Lambda names them
    first_canary_s: float | None
    rollback_s: float | None  # from the first canary request until the alias led back
    alert_s: float | None  # likewise, until a subscriber was told


def measure(release: Release, traffic: Traffic) -> Measured:
    """What callers and functions saw while it went on."""
    began, ended = release.deployment.began_s, release.deployment.ended_s + _SETTLE_S
    answers = [answer for answer in list(traffic.answers) if began <= answer.time_s <= ended]
    calls = [
        call
        for call in list(traffic.calls)
        if call.target.version == release.version and began <= call.time_s <= ended
    ]
    first = traffic.first_call(release.version, began) if release.version else None
    left = traffic.left(release.version, began) if release.version else None
    alerts = [alert.time_s for alert in list(traffic.alerts) if began <= alert.time_s <= ended]
    return Measured(
        len(answers),
        sum(map(failed, answers)),
        dict(Counter(answer.status for answer in answers if failed(answer))),
        len(calls),
        sum(call.error is not None for call in calls),
        dict(Counter(call.error for call in calls if call.error)),
        first,
        None if release.good or first is None or left is None else left - first,
        None if first is None or not alerts else max(alerts) - first,
    )


def failed(answer: Answer) -> bool:
    """Whether a caller did not get what was asked for."""
    return answer.status != 200


def find(
    releases: Sequence[Release], traffic: Traffic, alias: Mapping[str, float]
) -> list[Finding]:
    """Every promise of the twin; `alias` is where it leads at the end."""
    return [
        finding for release in releases for finding in _of(release, measure(release, traffic))
    ] + [_at_the_end(releases, alias)]


def _of(release: Release, seen: Measured) -> Iterator[Finding]:
    code = release.deployment.exit_code
    wanted, word = (PROMOTED, "promoted") if release.good else (ROLLED_BACK, "rolled back")
    told = str(release.deployment.result.get("text") or release.deployment.result.get("error"))
    yield Finding(f"{release.name}: is {word}", code == wanted, f"exit code {code}: {told}")
    if not release.good:
        took = "never" if seen.rollback_s is None else f"after {seen.rollback_s:.1f} s"
        yield Finding(
            f"{release.name}: rolled back within {MOST_ROLLBACK_S:g} s of its first request",
            seen.rollback_s is not None and seen.rollback_s <= MOST_ROLLBACK_S,
            f"{took}, {seen.canary_calls:,} requests",
        )
        told_after = "nobody" if seen.alert_s is None else f"after {seen.alert_s:.1f} s"
        yield Finding(f"{release.name}: an alert is sent", seen.alert_s is not None, told_after)
    yield _failures(release, seen)


def _failures(release: Release, seen: Measured) -> Finding:
    counted = f"{seen.failed:,} of {seen.requests:,} requests"
    if seen.failed:
        listed = [f"{count} × {status or 'broken'}" for status, count in seen.statuses.items()]
        listed += [f"{count} × {kind}" for kind, count in seen.canary_errors.items()]
        counted += f" ({', '.join(listed)})"
    if not release.fails:
        return Finding(f"{release.name}: no request fails", seen.failed == 0, counted)
    # Each failure is a call of the candidate that crashed; no other version's call failed.
    share = seen.failed / seen.requests if seen.requests else 0.0
    return Finding(
        f"{release.name}: only its own requests fail",
        seen.failed <= seen.canary_failed,
        f"{counted} ({share:.2%}); the candidate crashed at {seen.canary_failed:,} of its"
        f" {seen.canary_calls:,}, its own share of images is {release.fails:.1%}",
    )


def _at_the_end(releases: Sequence[Release], alias: Mapping[str, float]) -> Finding:
    promoted = [release.version for release in releases if release.good and release.version]
    expected = promoted[-1] if promoted else releases[0].stable
    seen = ", ".join(f"version {version}: {weight:.0%}" for version, weight in alias.items())
    return Finding(
        "at the end all traffic goes to the last good version", alias == {expected: 1}, seen
    )
