"""Whether the ledger lets a release begin, or go on."""

from __future__ import annotations

from infra.release.errors import Refused, RolledBackBefore
from infra.release.journal import Journal
from infra.release.ledger import ENDS
from infra.release.progress import Progress


def admit(journal: Journal, digest: str, again: bool) -> None:
    """Passes if an image may be released.

    Args:
        again: although it was rolled back the last time.

    Raises:
        Refused: another image's release has not ended.
        RolledBackBefore: the image was rolled back the last time.
    """
    now = journal.unfinished
    if now and now.digest != digest:
        raise Refused(
            f"release {now.release} of {now.digest} has not ended ({place_of(now)}): deploy "
            "that digest again to go on with it, or end it by `bazel run //infra:rollback`"
        )
    if not now and not again:
        _demand_no_rollback(journal, digest)


def place_of(now: Progress) -> str:
    """Where a release stands, in words."""
    if now.ending:
        return f"it was to {now.ending}"
    if now.step >= 0:
        return f"step {now.step + 1}"
    return "it has no traffic yet"


def _demand_no_rollback(journal: Journal, digest: str) -> None:
    ends = [
        record.decision
        for record in journal.life
        if record.decision.to_digest == digest and record.decision.kind in ENDS
    ]
    if ends and ends[-1].kind == "rolled back":
        last = ends[-1]
        raise RolledBackBefore(
            f"this image was rolled back at {last.when[:19]} UTC by {last.who} (release "
            f"{last.release}, {last.verdict}): {last.why or 'no reason given'}. --again "
            "releases it nevertheless"
        )
