"""Writes decisions to the ledger, and decides from it whether a release may begin or continue."""

from __future__ import annotations

import math
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from typing import Any, TypedDict, TypeVar, Unpack

import msgspec

from infra.release.aws.clients import Clock, iso
from infra.release.errors import LeaseLost, Refused, RolledBackBefore
from infra.release.state.ledger import ENDS, Decision, Kind, Ledger, Progress, Record, newest

_MORE_TRIES = 5  # a run that lost the lease writes one record more at most
_Said = TypeVar("_Said", Decision, Decision | None)


class _Details(TypedDict, total=False):
    """Fields that not every kind of decision has; version and model default to the candidate's."""

    to_version: str
    model: str | None
    step: int | None
    verdict: str
    why: str
    evidence: Mapping[str, Any]


class Journal:
    """One run's view of the ledger; fills in the fields that all of its decisions share."""

    def __init__(self, ledger: Ledger, who: str, clock: Clock) -> None:
        """Reads the ledger."""
        self._ledger, self._who, self._clock = ledger, who, clock
        self._read()

    @property
    def progress(self) -> Progress:
        """Progress of the newest release, which must exist."""
        assert self._progress is not None
        return self._progress

    @property
    def unfinished(self) -> Progress | None:
        """The release that was begun and has not ended."""
        return self._progress if self._progress and not self._progress.ended else None

    @property
    def pending_rollback(self) -> Decision | None:
        """A rollback that was decided last, and may not be done yet."""
        newest = self.records[-1].decision if self.records else None
        return newest if newest and newest.kind == "roll back" else None

    @property
    def expected_weights(self) -> list[Mapping[str, float]]:
        """The newest release's weights before its last decision on them, and by it: the alias is
        at one of both, since a decision is written before it is carried out."""
        found: list[Mapping[str, float]] = []
        for decision in (record.decision for record in self.records):
            if decision.kind == "begin":
                found.clear()
            if decision.weights not in found[-1:]:
                found.append(decision.weights)
        return found[-2:]

    @property
    def life(self) -> list[Record]:
        """Records since the service was last destroyed; version numbers begin anew after that."""
        kinds = [record.decision.kind for record in self.records]
        ends = [place for place, kind in enumerate(kinds, start=1) if kind == "destroyed"]
        return self.records[ends[-1] if ends else 0 :]

    def go_on(self) -> bool:
        """Takes over the unfinished release: the earlier run can append nothing after this record.
        False if that run has just ended the release."""

        def decide() -> Decision | None:
            if self.unfinished is None:
                return None
            return self.decision("go on", self.records[-1].decision.weights)

        return self._commit(decide, math.inf) is not None

    def insist(self, decide: Callable[[], Decision]) -> Decision:
        """Commits what `decide` says, even if a run that just lost the lease writes meanwhile.

        Raises:
            LeaseLost: somebody else goes on writing.
        """
        return self._commit(decide, _MORE_TRIES)

    @staticmethod
    def new_release() -> str:
        """The id of a new release."""
        return uuid.uuid4().hex[:12]

    def begin(
        self,
        digest: str,
        stable: tuple[str, str] | None,
        weights: Mapping[str, float],
        evidence: Mapping[str, Any],
        why: str,
    ) -> None:
        """A release begins; `stable` is version and image."""
        version, image = stable or (None, None)
        self.append(
            Decision(
                kind="begin",
                release=self.new_release(),
                who=self._who,
                when=iso(self._clock.now()),
                from_digest=image,
                to_digest=digest,
                from_version=version,
                to_version=None,
                weights=weights,
                why=why,
                evidence=finite(evidence),
            )
        )

    def write(self, kind: Kind, weights: Mapping[str, float], **said: Unpack[_Details]) -> Decision:
        """Decides something about the release that runs."""
        decision = self.decision(kind, weights, **said)
        self.append(decision)
        return decision

    def decision(
        self, kind: Kind, weights: Mapping[str, float], **said: Unpack[_Details]
    ) -> Decision:
        """The decision as a record for `append`."""
        now = self.progress
        return Decision(
            kind=kind,
            release=now.release,
            who=self._who,
            when=iso(self._clock.now()),
            from_digest=now.stable_digest,
            to_digest=now.digest,
            from_version=now.stable,
            to_version=said.get("to_version") or now.candidate,
            model_version=said.get("model") or now.model,
            weights=weights,
            step=said.get("step"),
            verdict=said.get("verdict", ""),
            why=said.get("why", ""),
            evidence=finite(said.get("evidence", {})),
        )

    def _commit(self, decide: Callable[[], _Said], more_tries: float) -> _Said:
        """Appends what `decide` returns for the current ledger, until that succeeds or is None."""
        while (decision := decide()) is not None:
            try:
                self.append(decision)
                break
            except LeaseLost:  # the other run was faster by one record
                if more_tries < 1:
                    raise
                more_tries -= 1
                self._read()
        return decision

    def _read(self) -> None:
        self.records: list[Record] = self._ledger.records()
        self._progress = newest(self.records)

    def append(self, decision: Decision) -> None:
        """Appends the record to the ledger."""
        record = self._ledger.append(decision)
        self.records.append(record)
        if decision.kind == "begin":
            self._progress = Progress.of(decision)
        elif self._progress and decision.release == self._progress.release:
            self._progress = self._progress.after(decision)


def finite(value: Any) -> Any:
    """JSON-ready, with numbers beyond JSON as text."""
    if isinstance(value, Mapping):
        return {str(name): finite(item) for name, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, msgspec.Struct):
        return finite(msgspec.to_builtins(value))
    if is_dataclass(value) and not isinstance(value, type):
        return finite(asdict(value))
    return value


def admit(journal: Journal, digest: str, again: bool) -> None:
    """Checks that an image may be released.

    Args:
        again: although it was rolled back the last time.

    Raises:
        Refused: another image's release has not ended, or a rollback has not.
        RolledBackBefore: the image was rolled back the last time.
    """
    now, pending = journal.unfinished, journal.pending_rollback
    if pending and not now:  # by hand, of no release: nobody's but a person's to give up
        raise Refused(
            f"a rollback to version {pending.from_version} was decided by {pending.who} at "
            f"{pending.when[:19]} UTC and has not ended: `bazel run //infra:rollback` ends it"
        )
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
