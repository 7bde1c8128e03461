"""The model registry's ledger: a record for every move of an alias, with its gates.

Each record has the targets of all aliases after it, so the newest is the current state.
"""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from common.ledger import Chain, decode, encode
from common.objects import Conflict, Store

REFUSED = "refused"  # verdict of a record that moved nothing

_TRIES = 200


class RegistryError(Exception):
    """The request is invalid; the message says what to do. Nothing was changed.

    Not a ValueError, which indicates a damaged object.
    """

    exit_code = 2


@dataclass(frozen=True)
class GateLimits:
    """The limits of all gates."""

    margin: float = 0.01  # largest allowed loss of accuracy against the champion
    alpha: float = 0.05  # probability of passing a model that is worse than that
    must_be_better: bool = False  # significantly better than the champion
    min_accuracy: float = 0.0
    accuracy_drift: float = 0.002  # between the artifact's metadata and the measurement here
    max_calibration_error: float = 0.05
    # Relative excess of log loss and Brier score over the expectation by the model's own
    # probabilities.
    max_excess_loss: float = 0.5
    max_bytes: int = 16_000_000
    p99_ms: float = 25.0  # one image, one thread

    def __post_init__(self) -> None:
        """Rejects invalid limits."""
        shares = {"margin": 1.0, "alpha": 0.5, "min_accuracy": 1.0, "max_calibration_error": 1.0}
        for name, most in shares.items():
            if not 0 <= getattr(self, name) <= most:
                option = f"--{name.replace('_', '-')}"
                raise RegistryError(f"{option} {getattr(self, name)}: expected 0 to {most:g}")
        if not self.max_excess_loss >= 0:
            raise RegistryError(f"--max-excess-loss {self.max_excess_loss}: expected 0 or more")
        if not self.alpha or self.max_bytes <= 0 or not self.p99_ms > 0:
            raise RegistryError("--alpha, --max-bytes and --p99-ms must be above 0")


@dataclass(frozen=True)
class Gate:
    """The result of one gate."""

    name: str
    passed: bool
    detail: str
    values: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Move:
    """An alias's change of target (None: removed), or its refusal."""

    alias: str
    target: str | None
    kind: str  # promote, rollback, remove; a release manager adds its own
    who: str
    when: str  # UTC, ISO 8601
    why: str
    verdict: str
    evidence: Mapping[str, Any] = field(default_factory=dict)
    id: str = field(default_factory=lambda: uuid.uuid4().hex)  # makes every move unique

    @property
    def moved(self) -> bool:
        """False for a refused attempt, which is only recorded."""
        return self.verdict != REFUSED


@dataclass(frozen=True)
class Record:
    """A move as committed."""

    number: int  # 1, 2, 3, …
    previous: str | None  # SHA-256 of the previous record
    move: Move
    source: str | None  # previous target of the alias
    aliases: Mapping[str, str]  # targets of all aliases afterwards

    def as_dict(self) -> dict[str, Any]:
        """The record as JSON-ready values."""
        move = asdict(self.move)
        return {
            "number": self.number,
            "previous": self.previous,
            "alias": move.pop("alias"),
            "from": self.source,
            "to": move.pop("target"),
            **move,
            "aliases": dict(sorted(self.aliases.items())),
        }

    def to_json(self) -> bytes:
        """The stored bytes; their SHA-256 is the record's digest."""
        return encode(self.as_dict())

    @classmethod
    def from_json(cls, data: bytes) -> Record:
        """Inverse of `to_json`; ValueError, KeyError or TypeError for anything else."""
        values = decode(data)
        own = {name: values.pop(name) for name in ("number", "previous", "aliases")}
        source, target = values.pop("from"), values.pop("to")
        return cls(move=Move(target=target, **values), source=source, **own)


@dataclass(frozen=True)
class State:
    """The state after a record: its number (0: none yet), its digest, all aliases."""

    number: int = 0
    digest: str | None = None
    aliases: Mapping[str, str] = field(default_factory=dict)

    def after(self, move: Move) -> Record:
        """The record of this move in this state."""
        aliases = dict(self.aliases)
        if move.moved:
            aliases.pop(move.alias, None)
            if move.target is not None:
                aliases[move.alias] = move.target
        source = self.aliases.get(move.alias)
        return Record(self.number + 1, self.digest, move, source, aliases)


class Ledger:
    """Reads and appends records."""

    def __init__(self, store: Store) -> None:
        self._chain = Chain(store, "ledger/", Record.from_json)

    def state(self) -> State:
        """The current state, from one listing and one read."""
        return _state_after(self._chain.newest())

    def records(self, after: int = 0) -> list[Record]:
        """All records after number `after`, oldest first.

        Raises:
            Damaged: one cannot be read.
        """
        return [record for record, _ in self._chain.records(after)]

    def append(self, decide: Callable[[State], Move | None]) -> Record | None:
        """Commits the move that `decide` returns for the newest state; None if it returns none.

        `decide` is called again with the newer state whenever another writer was faster; it raises
        Conflict if its premise no longer holds.
        """
        for attempt in range(_TRIES):
            state = self.state()
            if (move := decide(state)) is None:
                return None
            record = state.after(move)
            if self._chain.append(record):
                return record
            time.sleep(random.uniform(0, 0.01 * min(attempt + 1, 20)))
        raise Conflict(f"{_TRIES} other writers were faster: try again later")

    def problems(self) -> list[str]:
        """Integrity violations of the chain; empty if it is intact."""
        return self._chain.problems(
            lambda record, before: _state_after(before).after(record.move) != record
        )


def _state_after(committed: tuple[Record, str] | None) -> State:
    if committed is None:
        return State()
    record, digest = committed
    return State(record.number, digest, record.aliases)


def previous_target(records: Sequence[Record], alias: str) -> str | None:
    """The target of a rollback: where the alias pointed before its present target was promoted.

    Rollbacks are not promotions: after A, B, C a first rollback goes to B, a second one to A.
    """
    stack: list[str | None] = []
    for move in (record.move for record in records):
        if move.alias != alias or not move.moved:
            continue
        if move.kind == "rollback" and move.target in stack:
            while stack[-1] != move.target:
                stack.pop()
        else:
            stack.append(move.target)
    return stack[-2] if len(stack) > 1 else None
