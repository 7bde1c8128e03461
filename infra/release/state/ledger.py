"""The release ledger: a record for every decision, in an append-only chain.

The state of a release is reconstructed from it alone, so that a crashed run can continue.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from typing import Any, Literal, get_args

from common.ledger import Chain, decode, encode
from common.objects import Damaged, Store
from infra.release.errors import DONE, HELD, REFUSED, ROLLED_BACK, LeaseLost, ReleaseError
from infra.release.settings import StrategyName
from infra.release.verdict.evidence import Window

Kind = Literal[
    "begin",  # a release of a digest was asked for
    "go on",  # another run continues it; what the one before writes from here on is refused
    "publish",  # it has a version
    "test",  # that version answers, asked directly
    "shift",  # a part of the traffic goes to it
    "look",  # evidence was judged
    "promote",  # all of the traffic goes to it
    "roll back",  # all of the traffic goes back to the version before
    "stop",  # neither: a person is to decide
    "promoted",  # from here on ends: verified
    "rolled back",
    "failed",  # before any traffic
    "unchanged",  # it is live already
    "reported",  # an A/B split ended
    "destroyed",  # with all versions, whose numbers begin anew
]
ENDS = ("promoted", "rolled back", "failed", "unchanged", "reported", "destroyed")


@dataclass(frozen=True)
class Decision:
    """What was decided, by whom, and on what grounds.

    Attributes:
        release: id of the release that it belongs to.
        weights: share of the traffic of each version from here on.
        model_version: of the model in the version `to_version`, once it is known.
        evidence: what the verdict rests on.
    """

    kind: Kind
    release: str
    who: str
    when: str  # UTC, ISO 8601
    from_digest: str | None
    to_digest: str | None
    from_version: str | None
    to_version: str | None
    model_version: str | None = None
    weights: Mapping[str, float] = field(default_factory=dict)
    step: int | None = None
    verdict: str = ""
    why: str = ""
    evidence: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Record:
    """A decision as committed."""

    number: int  # 1, 2, 3, …
    previous: str | None  # SHA-256 of the record before
    decision: Decision

    def as_dict(self) -> dict[str, Any]:
        """The record as JSON-ready values."""
        return {"number": self.number, "previous": self.previous, **asdict(self.decision)}

    def to_json(self) -> bytes:
        """What is stored; its SHA-256 is the record's digest."""
        return encode(self.as_dict(), indent=1)

    @classmethod
    def from_json(cls, data: bytes) -> Record:
        """Inverse of `to_json`; ValueError, KeyError or TypeError for anything else."""
        values = decode(data)
        number, previous = values.pop("number"), values.pop("previous")
        if values["kind"] not in get_args(Kind):
            raise ValueError(f"unknown kind {values['kind']!r}")
        return cls(number, previous, Decision(**values))


class Ledger:
    """Reads and appends records."""

    def __init__(self, store: Store) -> None:
        self._chain = Chain(store, "records/", Record.from_json)
        self.url = store.url
        self._number, self._digest = 0, None

    _digest: str | None

    def records(self) -> list[Record]:
        """All records, oldest first. Later appends go behind the last one seen here.

        Raises:
            ReleaseError: one cannot be read, is missing, or was changed.
        """
        try:
            found = self._chain.whole()
        except Damaged as exc:
            raise ReleaseError(str(exc)) from exc
        self._number, self._digest = len(found), found[-1][1] if found else None
        return [record for record, _ in found]

    def append(self, decision: Decision) -> Record:
        """Commits a decision behind the last record that this object has seen.

        Raises:
            LeaseLost: somebody else appended: what this decision rests on has changed.
        """
        record = Record(self._number + 1, self._digest, decision)
        digest = self._chain.append(record)
        if digest is None:
            raise LeaseLost(
                f"record {record.number} of {self.url} was written by somebody else: "
                "nothing was changed here. See `bazel run //infra:status`"
            )
        self._number, self._digest = record.number, digest
        return record


@dataclass(frozen=True)
class Outcome:
    """The result of a release."""

    kind: Kind
    text: str
    data: Mapping[str, Any] = field(default_factory=dict)

    @property
    def exit_code(self) -> int:
        """The exit code of the command, see README.md."""
        return {
            "rolled back": ROLLED_BACK,
            "stop": HELD,
            "failed": REFUSED,
        }.get(self.kind, DONE)


@dataclass(frozen=True)
class Progress:
    """The state of one release.

    Attributes:
        stable: the version before, None if there was none.
        stable_model: its model version, if it said it.
        raised_before: alarms that were raised when it began, and so say nothing about it.
        classes: names of all classes that either version answers with.
        step: place in the strategy's steps, -1 before the first.
        since_s, seen_until_s: when the step began, and the end of the last window.
        windows: evidence so far.
        golden_used: images of the order that were asked already.
        lost: failed calls by version, as the collector counts them.
        ending: what was decided and may not be done yet.
        ended: how it ended.
    """

    release: str
    digest: str
    strategy: StrategyName
    began_s: float
    stable: str | None
    stable_digest: str | None
    stable_model: str | None = None
    raised_before: tuple[str, ...] = ()
    candidate: str | None = None
    model: str | None = None
    classes: tuple[str, ...] = ()
    is_tested: bool = False
    step: int = -1
    since_s: float = 0.0
    seen_until_s: float = 0.0
    windows: tuple[Window, ...] = ()
    golden_used: int = 0
    lost: Mapping[str, int] = field(default_factory=dict)
    ending: Literal["promote", "roll back"] | None = None
    why: str = ""
    verdict: str = ""
    is_stopped: bool = False
    ended: Kind | None = None

    @classmethod
    def of(cls, begin: Decision) -> Progress:
        """The progress of a release that begins."""
        return cls(
            release=begin.release,
            digest=str(begin.to_digest),
            strategy=begin.evidence["strategy"],
            began_s=seconds(begin.when),
            stable=begin.from_version,
            stable_digest=begin.from_digest,
            stable_model=begin.evidence.get("stable_model"),
            raised_before=tuple(begin.evidence.get("raised_before", ())),
        )

    def after(self, decision: Decision) -> Progress:
        """The state after a further decision."""
        evidence, kind = decision.evidence, decision.kind
        if kind in ENDS:
            return replace(self, ended=kind)
        if kind == "publish":
            return replace(self, candidate=decision.to_version)
        if kind == "test":
            classes = tuple(evidence.get("classes", ()))
            return replace(self, is_tested=True, model=decision.model_version, classes=classes)
        if kind == "shift":
            return replace(
                self,
                step=int(decision.step or 0),
                since_s=seconds(decision.when),
                seen_until_s=float(evidence["from"]),
                lost=evidence["lost"],
                is_stopped=False,
            )
        if kind == "look":
            return replace(
                self,
                windows=(*self.windows, Window.of(evidence["window"])),
                golden_used=int(evidence["golden_used"]),
                lost=evidence["lost"],
                seen_until_s=float(evidence["until"]),
            )
        if kind == "promote":
            return replace(self, ending="promote", why=decision.why, verdict=decision.verdict)
        if kind == "roll back":
            return self._going_back(decision)
        return replace(self, is_stopped=True) if kind == "stop" else self

    def _going_back(self, decision: Decision) -> Progress:
        """The alias goes back to stable, or to the version that a person chose."""
        to, is_stable = decision.from_version, decision.from_version == self.stable
        return replace(
            self,
            ending="roll back",
            why=decision.why,
            verdict=decision.verdict,
            stable=to,
            stable_digest=decision.from_digest,
            stable_model=self.stable_model if is_stable else None,
        )


def newest(records: Sequence[Record]) -> Progress | None:
    """The release that the last records tell about, ended or not."""
    progress: Progress | None = None
    for decision in (record.decision for record in records):
        if decision.kind == "begin":
            progress = Progress.of(decision)
        elif progress and decision.release == progress.release:
            progress = progress.after(decision)
    return progress


def seconds(when: str) -> float:
    """Seconds since 1970 of a record's time."""
    return datetime.fromisoformat(when).timestamp()


def live_before(records: Sequence[Record], live: str) -> str | None:
    """The version that had all traffic before the live one: a rollback's target.

    Rollbacks are no releases: after 1, 2, 3 a first rollback goes to 2, a second one to 1.
    """
    stack: list[str] = []
    for decision in (record.decision for record in records):
        if decision.kind == "destroyed":
            stack.clear()
        elif decision.kind == "promoted" and decision.to_version:
            if not stack and decision.from_version:
                stack.append(decision.from_version)
            if stack[-1:] != [decision.to_version]:
                stack.append(decision.to_version)
        elif decision.kind == "rolled back" and decision.from_version in stack:
            while stack[-1] != decision.from_version:
                stack.pop()
    if live in stack:
        while stack.pop() != live:
            pass
    return stack[-1] if stack else None
