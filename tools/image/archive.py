"""Layers of an image: gzipped tars that depend on names and bytes alone."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO


@dataclass(frozen=True)
class Entry:
    """One path of the image, relative to its root; ``data`` is the content or the file with it."""

    path: str
    kind: bytes = tarfile.REGTYPE
    mode: int = 0o644
    data: bytes | Path = b""
    link: str = ""
    owner: int = 0


def with_parents(entries: Iterable[Entry]) -> list[Entry]:
    """The entries, sorted, with every parent folder: Lambda insists on those."""
    found = {entry.path: entry for entry in entries}
    for path in list(found):
        for parent in PurePosixPath(path).parents:
            if str(parent) != ".":
                found.setdefault(str(parent), Entry(str(parent), tarfile.DIRTYPE, 0o755))
    return [found[path] for path in sorted(found)]


def write_layer(entries: Iterable[Entry], target: Path, effort: int = 6) -> None:
    """Write them with gzip's ``effort`` from 1, quick, to 9, small.

    No times, no users of this machine, and neither a name nor a time in the gzip header."""
    with (
        target.open("wb") as raw,
        gzip.GzipFile("", "wb", effort, raw, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.GNU_FORMAT) as archive,
    ):
        for entry in entries:
            info = tarfile.TarInfo(entry.path)
            info.type, info.mode, info.linkname = entry.kind, entry.mode, entry.link
            info.uid = info.gid = entry.owner
            if entry.kind == tarfile.REGTYPE:
                with _open(entry.data) as data:
                    info.size = data.seek(0, io.SEEK_END)
                    data.seek(0)
                    archive.addfile(info, data)
            else:
                archive.addfile(info)


def _open(data: bytes | Path) -> IO[bytes]:
    return data.open("rb") if isinstance(data, Path) else io.BytesIO(data)
