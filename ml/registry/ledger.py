"""The release ledger: an append-only chain of records, one for every move of an alias.

Record n is the object ``ledger/0000000n.json``, created only if there is none: that creation is
what commits a move. Each record carries where all aliases point after it and the digest of the
record before, so the newest says what holds now, and a change to any other shows.
"""

from __future__ import annotations

import hashlib
import json
import random
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any

from ml.registry.store import Conflict, Damaged, Store

SCHEMA = 1
REFUSED = "refused"  # the verdict of a record that moved nothing

_FOLDER = "ledger/"
_TRIES = 200
_READERS = 16


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
        values = {"schema": SCHEMA, **self.as_dict()}
        return f"{json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False)}\n".encode()

    @classmethod
    def from_json(cls, data: bytes) -> Record:
        """Inverse of `to_json`; ValueError, KeyError or TypeError for anything else."""
        values = json.loads(data)
        if values.pop("schema") != SCHEMA:
            raise ValueError("another release of Kiln wrote it")
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
        self._store = store

    def state(self) -> State:
        """What holds now: one listing, one object."""
        keys = [stored.key for stored in self._store.entries(_FOLDER)]
        return self._state(keys[-1]) if keys else State()

    def records(self, after: int = 0) -> list[Record]:
        """All records behind number `after`, oldest first.

        Raises:
            Damaged: one cannot be read.
        """
        keys = [stored.key for stored in self._store.entries(_FOLDER, _key(after))]
        with ThreadPoolExecutor(_READERS) as pool:
            return [record for record, _ in pool.map(self._read, keys)]

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
            if self._store.create(_key(record.number), record.to_json()):
                return record
            time.sleep(random.uniform(0, 0.01 * min(attempt + 1, 20)))
        raise Conflict(f"{_TRIES} other records came first: try again when it is quieter")

    def problems(self) -> list[str]:
        """What shows that the chain is not as it was written; empty if nothing does."""
        found, state = [], State()
        for place, stored in enumerate(self._store.entries(_FOLDER), start=1):
            try:
                record, digest = self._read(stored.key)
            except Damaged as exc:
                found.append(str(exc))
                continue
            if record.number != place or stored.key != _key(place):
                return [*found, f"{_key(place)} is missing: the records behind it stand alone"]
            if record.previous != state.digest and state.number == place - 1:
                found.append(f"{_key(place - 1)} was changed: {stored.key} names another digest")
            elif state.number == place - 1 and state.after(record.move) != record:
                found.append(f"{stored.key} contradicts the records before it")
            state = State(record.number, digest, record.aliases)
        return found

    def _state(self, key: str) -> State:
        record, digest = self._read(key)
        return State(record.number, digest, record.aliases)

    def _read(self, key: str) -> tuple[Record, str]:
        data = self._store.read(key)
        try:
            return Record.from_json(data), hashlib.sha256(data).hexdigest()
        except (ValueError, KeyError, TypeError, AttributeError) as exc:
            raise Damaged(
                f"{key} in {self._store.url} is no record of the ledger ({exc!r}): "
                "restore it from a backup"
            ) from exc


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


def _key(number: int) -> str:
    return f"{_FOLDER}{number:08d}.json"
