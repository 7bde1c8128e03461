"""Write-once object storage: the interface, its errors, and an implementation in a folder."""

import errno
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


class StoreError(Exception):
    """The folder or bucket cannot be used; the message says what to do. Nothing was changed."""

    exit_code = 2


class Conflict(StoreError):
    """Another writer was faster; the message says who, and what to do."""

    exit_code = 1


class Damaged(StoreError):
    """Stored content is not what was written."""

    exit_code = 1


@dataclass(frozen=True)
class Stored:
    """A stored object: its key, size in bytes, and modification time (seconds since 1970)."""

    key: str
    size: int
    modified: float


class Store(Protocol):
    """Immutable objects by key ("a/b.json"). Every method raises StoreError if the store fails."""

    @property
    def url(self) -> str:
        """Its location as a user would write it."""

    def read(self, key: str) -> bytes:
        """An object's bytes; KeyError if there is none."""

    def create(self, key: str, data: bytes) -> bool:
        """True if the object holds these bytes afterwards, false if it held different ones already.

        It never changes an object. Of several writers of different bytes, one sees True.
        """

    def entries(self, prefix: str, after: str = "") -> list[Stored]:
        """Objects whose key starts with `prefix` and sorts after `after`, in order."""

    def delete(self, key: str) -> None:
        """Removes an unreferenced object, if it exists."""

    def unfinished(self) -> list[Stored]:
        """Leftovers of killed writers; `delete` accepts their keys."""


_UNFINISHED = ".unfinished"


class FolderStore:
    """Objects as files, written to a temporary name and hard-linked into place: the link fails if
    the name is taken, on every POSIX file system with hard links, NFS included.
    """

    def __init__(self, root: Path) -> None:
        """The first write creates the folder."""
        self.root = root.absolute()

    @property
    def url(self) -> str:
        """The folder's path."""
        return str(self.root)

    def read(self, key: str) -> bytes:
        """An object's bytes; KeyError if there is none."""
        try:
            with _explained():
                return (self.root / key).read_bytes()
        except FileNotFoundError:
            raise KeyError(key) from None

    def create(self, key: str, data: bytes) -> bool:
        """Links the object into place, unless its name is taken by other bytes."""
        final, aside = self.root / key, self.root / _UNFINISHED / uuid.uuid4().hex
        with _explained():
            made = [*_make_folders(aside.parent), *_make_folders(final.parent)]
            try:
                _write(aside, data)
                try:
                    os.link(aside, final)
                except FileExistsError:
                    return final.read_bytes() == data
            finally:
                with suppress(FileNotFoundError):
                    os.unlink(aside)
            for folder in {final.parent, *(path.parent for path in made)}:
                _flush(folder)  # the entry itself must outlast a power cut
            return True

    def entries(self, prefix: str, after: str = "") -> list[Stored]:
        """Objects below `prefix` that sort after `after`, in order."""
        folder = prefix.rpartition("/")[0]
        found = [f for f in self._files(folder) if f.key.startswith(prefix) and f.key > after]
        return [f for f in found if not f.key.startswith(_UNFINISHED)]

    def delete(self, key: str) -> None:
        """Removes an object, if it is there."""
        with _explained(), suppress(FileNotFoundError):
            os.unlink(self.root / key)

    def unfinished(self) -> list[Stored]:
        """Temporary files of killed writers."""
        return self._files(_UNFINISHED)

    def _files(self, folder: str) -> list[Stored]:
        found = []
        with _explained():
            for parent, _, names in os.walk(self.root / folder, onerror=_raise_unless_missing):
                for name in names:
                    path = Path(parent, name)
                    with suppress(FileNotFoundError):  # its writer has finished meanwhile
                        status = path.stat()
                        key = path.relative_to(self.root).as_posix()
                        found.append(Stored(key, status.st_size, status.st_mtime))
        return sorted(found, key=lambda file: file.key)


def _make_folders(path: Path) -> list[Path]:
    """Creates a folder and its parents; returns those that were missing."""
    missing = []
    for folder in (path, *path.parents):
        if folder.is_dir():
            break
        missing.append(folder)
    os.makedirs(path, exist_ok=True)
    return missing


def _write(path: Path, data: bytes) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(handle, rest) :]
        os.fsync(handle)
    finally:
        os.close(handle)


def _flush(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _raise_unless_missing(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as exc:
        if exc.errno in (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP) and exc.filename2:
            raise StoreError(
                f"{exc.filename2} cannot be linked into place: this needs a file system "
                "with hard links, or an s3:// URL"
            ) from exc
        raise StoreError(f"{exc.filename} cannot be used: {exc.strerror}") from exc
