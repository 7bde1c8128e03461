"""An append-only ledger: a hash chain of records in an object store.

Record n is the object ``<folder>0000000n.json``, created only if there is none: that creation is
what commits it. Each record carries the digest of the one before, so that a change to any shows.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Generic, Protocol, TypeVar

from common.objects import Damaged, Store

SCHEMA = 1
_READERS = 16


def encode(values: Mapping[str, Any], indent: int = 2) -> bytes:
    """A document's stored form, human-readable JSON; ValueError for what JSON cannot hold."""
    document = {"schema": SCHEMA, **values}
    text = json.dumps(document, indent=indent, ensure_ascii=False, allow_nan=False)
    return f"{text}\n".encode()


def decode(data: bytes) -> dict[str, Any]:
    """Inverse of `encode`; ValueError for anything else."""
    values = json.loads(data)
    if not isinstance(values, dict) or values.pop("schema", None) != SCHEMA:
        raise ValueError("another release of Kiln wrote it")
    return values


class Record(Protocol):
    """An entry of a ledger."""

    @property
    def number(self) -> int:
        """Its position in the ledger, from 1."""

    @property
    def previous(self) -> str | None:
        """SHA-256 of the previous record, in hex."""

    def to_json(self) -> bytes:
        """The stored form; its SHA-256 is the record's digest."""


R = TypeVar("R", bound=Record)


class Chain(Generic[R]):
    """Reads and appends records of one type, along with their digests."""

    def __init__(self, store: Store, folder: str, parse: Callable[[bytes], R]) -> None:
        """`parse` is the inverse of the records' `to_json`; `folder` is their prefix
        ("records/").
        """
        self._store, self._folder, self._parse = store, folder, parse

    def newest(self) -> tuple[R, str] | None:
        """The last record, from one listing and one read."""
        keys = self._keys()
        return self._read(keys[-1]) if keys else None

    def records(self, after: int = 0) -> list[tuple[R, str]]:
        """All records after number `after`, oldest first.

        Raises:
            Damaged: one cannot be read.
        """
        with ThreadPoolExecutor(_READERS) as pool:
            return list(pool.map(self._read, self._keys(after)))

    def whole(self) -> list[tuple[R, str]]:
        """All records, oldest first.

        Raises:
            Damaged: one cannot be read, is missing, or was changed.
        """
        found = self.records()
        number, digest = 0, None
        for record, own_digest in found:
            if (record.number, record.previous) != (number + 1, digest):
                raise Damaged(
                    f"{self._store.url}/{self._key(number + 1)}: the chain is broken there "
                    "(missing or changed): restore it from a backup or the bucket's versions"
                )
            number, digest = record.number, own_digest
        return found

    def append(self, record: R) -> str | None:
        """Commits a record; returns its digest, or None if another one has its number."""
        data = record.to_json()
        if not self._store.create(self._key(record.number), data):
            return None
        return hashlib.sha256(data).hexdigest()

    def problems(self, contradicts: Callable[[R, tuple[R, str] | None], bool]) -> list[str]:
        """Integrity violations of the chain; empty if it is intact.

        Args:
            contradicts: whether a record cannot follow the one before it (None: it is the first).
        """
        found: list[str] = []
        before: tuple[R, str] | None = None
        for place, key in enumerate(self._keys(), start=1):
            if key != self._key(place):
                return [*found, f"{self._key(place)} is missing: the records after it stand alone"]
            try:
                record, digest = self._read(key)
            except Damaged as exc:
                found.append(str(exc))
                continue
            if (before[0].number if before else 0) == place - 1:
                if record.previous != (before[1] if before else None):
                    found.append(f"{self._key(place - 1)} was changed: {key} has another digest")
                elif contradicts(record, before):
                    found.append(f"{key} contradicts the records before it")
            before = record, digest
        return found

    def _keys(self, after: int = 0) -> list[str]:
        stored = self._store.entries(self._folder, self._key(after) if after else "")
        return [entry.key for entry in stored]

    def _read(self, key: str) -> tuple[R, str]:
        try:
            data = self._store.read(key)
            record = self._parse(data)
            if self._key(record.number) != key:
                raise ValueError(f"it is record {record.number}")
        except (ValueError, KeyError, TypeError, AttributeError) as exc:
            raise Damaged(
                f"{key} in {self._store.url} is not a ledger record ({exc!r}): "
                "restore it from a backup or the bucket's versions"
            ) from exc
        return record, hashlib.sha256(data).hexdigest()

    def _key(self, number: int) -> str:
        return f"{self._folder}{number:08d}.json"
