"""The release ledger: a record for every decision, in an append-only chain."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

from common.ledger import Chain, decode, encode
from common.objects import Damaged, Store
from infra.release.errors import DONE, HELD, REFUSED, ROLLED_BACK, LeaseLost, ReleaseError

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
