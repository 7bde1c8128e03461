"""Where a registry's objects are kept: a folder, or a bucket of S3.

Everything above rests on one promise of `Store.create`: an object appears whole, and once. No
object is ever changed, so a writer that is killed leaves a readable registry.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

from ml.registry.errors import StoreError


@dataclass(frozen=True)
class Stored:
    """One object: its key, size in bytes, and when it was written (seconds since 1970)."""

    key: str
    size: int
    modified: float


class Store(Protocol):
    """Immutable objects by key ("a/b.json"). Every method raises StoreError if it cannot answer."""

    @property
    def url(self) -> str:
        """Where it is, as a user would write it."""

    def read(self, key: str) -> bytes:
        """An object's bytes; KeyError if there is none."""

    def create(self, key: str, data: bytes) -> bool:
        """True if the object holds these bytes afterwards, false if it held others already.

        It never changes an object. Of several writers of different bytes, one sees True.
        """

    def entries(self, prefix: str, after: str = "") -> list[Stored]:
        """Objects whose key starts with `prefix` and sorts behind `after`, in order."""

    def delete(self, key: str) -> None:
        """Removes an object, if it is there: for what nothing refers to."""

    def unfinished(self) -> list[Stored]:
        """What killed writers left beside the objects; `delete` takes their keys too."""


def open_store(url: str) -> Store:
    """The store that a URL or a path names.

    Args:
        url: ``s3://bucket/prefix``, ``file:///absolute/path`` or a path.

    Raises:
        StoreError: another kind of URL, or one without a bucket.
    """
    parts = urlsplit(url)
    if parts.scheme == "s3":
        from ml.registry.s3_store import S3Store  # boto3 takes a while, a folder needs none of it

        if not parts.netloc:
            raise StoreError(f"{url} names no bucket: expected s3://bucket/prefix")
        return S3Store(parts.netloc, parts.path.strip("/"))
    if parts.scheme not in ("", "file") or (parts.scheme and parts.netloc):
        raise StoreError(
            f"{url} cannot hold a registry: expected s3://bucket/prefix, file:///path or a path "
            "(other stores promise no atomic creation)"
        )
    from ml.registry.folder_store import FolderStore

    path = Path(parts.path if parts.scheme else url).expanduser()
    return FolderStore(Path(os.environ.get("BUILD_WORKING_DIRECTORY", "")) / path)
