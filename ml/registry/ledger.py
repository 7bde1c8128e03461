"""The ledger of the model registry: a record for every move of an alias, with its gates.

Each record carries where all aliases point after it, so the newest says what holds now.
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

REFUSED = "refused"  # the verdict of a record that moved nothing

_TRIES = 200


class RegistryError(Exception):
    """Asked for something that cannot be; the message says what to do. Nothing was changed.

    No ValueError: those are what a damaged object is noticed by.
    """

    exit_code = 2


@dataclass(frozen=True)
class GateLimits:
    """The limits of all gates."""

    margin: float = 0.01  # share of images; how much accuracy the champion may be missed by
    alpha: float = 0.05  # probability of passing a model that is worse than that
    must_be_better: bool = False  # than the champion, significantly
    min_accuracy: float = 0.0
    accuracy_drift: float = 0.002  # between what the artifact says and what is measured here
    max_calibration_error: float = 0.05
    # The share by which log loss and Brier's score may exceed what the model's own answers expect.
    max_excess_loss: float = 0.5
    max_bytes: int = 16_000_000
    p99_ms: float = 25.0  # one image, one thread

    def __post_init__(self) -> None:
        """Refuse what no gate can stand at."""
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
    """An alias gets a new target (None: it goes away), or was refused it."""

    alias: str
    target: str | None
    kind: str  # promote, rollback, remove; a release manager adds its own
    who: str
    when: str  # UTC, ISO 8601
    why: str
    verdict: str
    evidence: Mapping[str, Any] = field(default_factory=dict)
    id: str = field(default_factory=lambda: uuid.uuid4().hex)  # so that no two moves are alike

    @property
    def moved(self) -> bool:
        """False for an attempt that was refused and is kept for the record."""
        return self.verdict != REFUSED


@dataclass(frozen=True)
class Record:
    """A move as it was committed."""

    number: int  # 1, 2, 3, …
    previous: str | None  # SHA-256 of the record before
    move: Move
    source: str | None  # where the alias pointed before
    aliases: Mapping[str, str]  # where all aliases point afterwards

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
        """What is stored; its SHA-256 is the record's digest."""
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
    """What holds after a record: its number (0: none yet), its digest, all aliases."""

    number: int = 0
    digest: str | None = None
    aliases: Mapping[str, str] = field(default_factory=dict)

    def after(self, move: Move) -> Record:
        """The record that this move makes of the state."""
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
        """What holds now: one listing, one object."""
        return _state_after(self._chain.newest())

    def records(self, after: int = 0) -> list[Record]:
        """All records behind number `after`, oldest first.

        Raises:
            Damaged: one cannot be read.
        """
        return [record for record, _ in self._chain.records(after)]

    def append(self, decide: Callable[[State], Move | None]) -> Record | None:
        """Commits the move that `decide` wants in the newest state; None if it wants none.

        `decide` is asked again, with the newer state, whenever another writer was faster; it raises
        Conflict when its reason has gone.
        """
        for attempt in range(_TRIES):
            state = self.state()
            if (move := decide(state)) is None:
                return None
            record = state.after(move)
            if self._chain.append(record):
                return record
            time.sleep(random.uniform(0, 0.01 * min(attempt + 1, 20)))
        raise Conflict(f"{_TRIES} other records came first: try again when it is quieter")

    def problems(self) -> list[str]:
        """What shows that the chain is not as it was written; empty if nothing does."""
        return self._chain.problems(
            lambda record, before: _state_after(before).after(record.move) != record
        )


def _state_after(committed: tuple[Record, str] | None) -> State:
    if committed is None:
        return State()
    record, digest = committed
    return State(record.number, digest, record.aliases)


def previous_target(records: Sequence[Record], alias: str) -> str | None:
    """Where a rollback goes: what the alias pointed at before its present target was promoted.

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
