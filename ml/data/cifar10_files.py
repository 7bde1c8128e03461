"""The two files of CIFAR-10: their pin by DVC's hashes, and this machine's cached copy. Uses only
the standard library.

The pin is an ordinary .dvc file, so DVC and this module read the same lines. Only the subset of
YAML that DVC writes is parsed.

The cache is ``${KILN_CACHE:-${XDG_CACHE_HOME:-~/.cache}/kiln}/cifar10/<start of the pin's
digest>/``, complete or absent. Files are written to a staging folder beside it, checked, and
renamed into place in one step: a fetch that is killed at any moment leaves either no entry or a
complete one. A file lock serialises concurrent fetches and distinguishes leftovers from work in
progress.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TextIO

PIN_FILE = Path(__file__).with_name("cifar10.dvc")
FILE_NAMES = ("train.bin", "test.bin")

_FIELD = re.compile(r"(?P<dash>- +)?(?P<key>\w+): *(?P<value>.*)")
_MD5 = re.compile(r"[0-9a-f]{32}")


class PinError(ValueError):
    """The pin cannot be read; the message names the file and the remedy."""


class Mismatch(ValueError):
    """A file is not the pinned one; the message has its name, the expected and the actual hash."""


@dataclass(frozen=True)
class PinnedFile:
    """A file of the dataset: its name, DVC's hash, and its size in bytes."""

    name: str
    md5: str
    size: int

    def check(self, path: Path) -> None:
        """Raises Mismatch unless ``path`` holds exactly these bytes."""
        if not path.is_file():
            raise Mismatch(f"{path} is missing: expected md5 {self.md5}")
        size, found = path.stat().st_size, file_md5(path)
        if found != self.md5 or size != self.size:
            raise Mismatch(
                f"{path} is not the pinned file: expected md5 {self.md5} ({self.size} bytes), "
                f"found {found} ({size} bytes)"
            )


@dataclass(frozen=True)
class Pin:
    """Both files of the dataset."""

    train: PinnedFile
    test: PinnedFile

    @property
    def files(self) -> tuple[PinnedFile, PinnedFile]:
        return (self.train, self.test)

    @property
    def digest(self) -> str:
        """SHA-256 of the dataset in hex, over each file's name, hash and size, train first."""
        lines = [f"{file.name} md5:{file.md5} {file.size}\n" for file in self.files]
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    def check(self, folder: Path) -> None:
        """Raises Mismatch unless ``folder`` holds the pinned files."""
        for file in self.files:
            file.check(folder / file.name)


def read_pin(path: Path = PIN_FILE) -> Pin:
    """Reads the pin from a .dvc file.

    Raises:
        PinError: the file is unreadable, or its outs are not exactly train.bin and test.bin with
            md5 and size.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as exc:
        raise PinError(
            f"{path} cannot be read ({exc.strerror}): restore it from version control"
        ) from exc
    outs = {out.get("path"): out for out in _outs(text)}
    if set(outs) != set(FILE_NAMES):
        raise PinError(f"{path} should pin train.bin and test.bin, found {sorted(map(str, outs))}")
    train, test = (_pinned_file(path, name, outs[name]) for name in FILE_NAMES)
    return Pin(train, test)


def pin_folder(folder: Path) -> Pin:
    """The pin for the files that are now in ``folder``; reads them whole."""
    train, test = (
        PinnedFile(name, file_md5(folder / name), (folder / name).stat().st_size)
        for name in FILE_NAMES
    )
    return Pin(train, test)


def file_md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _outs(text: str) -> Iterator[dict[str, str]]:
    """The items of the top-level list ``outs``, as dictionaries of strings."""
    item: dict[str, str] = {}
    inside = False
    for line in text.splitlines():
        body = line.strip()
        if not body or body.startswith("#"):
            continue
        if line[0] not in " -":
            inside = body == "outs:"
        elif inside and (field := _FIELD.fullmatch(body)):
            if field["dash"]:
                if item:
                    yield item
                item = {}
            item[field["key"]] = field["value"].strip("'\"")
    if item:
        yield item


def _pinned_file(path: Path, name: str, out: dict[str, str]) -> PinnedFile:
    md5, size = out.get("md5", ""), out.get("size", "")
    if not _MD5.fullmatch(md5) or not size.isdecimal() or out.get("hash") != "md5":
        raise PinError(
            f"{path}: {name} needs an md5 of 32 hex digits, a size and 'hash: md5', found {out}"
        )
    return PinnedFile(name, md5, int(size))


_READ_ONLY = 0o444
_POLL_S = 0.1


class Progress:
    """Progress lines: redrawn in place on a terminal, otherwise one every few seconds."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream if stream is not None else sys.stderr
        self._redraws = self._stream.isatty()
        self._interval_s = 0.1 if self._redraws else 3.0
        self._shown_at = time.monotonic()
        self._open_line = False

    def say(self, message: str) -> None:
        self._stream.write(("\n" if self._open_line else "") + f"cifar10: {message}\n")
        self._stream.flush()
        self._open_line = False
        self._shown_at = time.monotonic()

    def step(self, what: str, done: float, total: float | None = None, unit: str = "MB") -> None:
        """Reports the progress of ``what``; may be called often, shows at most one line per
        interval."""
        finished = total is not None and done >= total
        now = time.monotonic()
        if now - self._shown_at < self._interval_s and not (finished and self._open_line):
            return
        self._shown_at = now
        share = f" of {total:.0f} {unit} ({done / total:.0%})" if total else f" {unit}"
        line = f"cifar10: {what}: {done:.0f}{share}"
        self._stream.write(f"\r\x1b[K{line}" if self._redraws else f"{line}\n")
        self._stream.flush()
        self._open_line = self._redraws


def cache_folder(dataset: str = "cifar10") -> Path:
    base = os.environ.get("KILN_CACHE")
    if base:
        return Path(base).expanduser() / dataset
    home = os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
    return Path(home) / "kiln" / dataset


def entry_folder(pin: Pin, cache: Path) -> Path:
    return cache / pin.digest[:12]


@contextmanager
def locked(pin: Pin, cache: Path, progress: Progress) -> Iterator[None]:
    """Holds the lock of a pin, so that one process fetches at a time, and removes the leftovers of
    killed ones.

    The kernel releases the lock when its holder dies.
    """
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / f".{pin.digest[:12]}.lock").open("w") as lock:
        if not _is_free(lock):
            progress.say("waiting for another fetch on this machine")
            start = time.monotonic()
            while not _is_free(lock):
                progress.step("waiting for another fetch", time.monotonic() - start, unit="s")
                time.sleep(_POLL_S)
        for leftover in leftovers(pin, cache):
            shutil.rmtree(leftover, ignore_errors=True)
        yield


def _is_free(lock: IO[str]) -> bool:
    """Tries to take the lock; returns whether it succeeded."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def leftovers(pin: Pin, cache: Path) -> list[Path]:
    """Staging folders of a running fetch and of killed ones."""
    return list(cache.glob(f"{_staging_prefix(pin)}*"))


def _staging_prefix(pin: Pin) -> str:
    return f".{pin.digest[:12]}.partial-"


@contextmanager
def staging(pin: Pin, cache: Path) -> Iterator[Path]:
    """A new folder beside the entry, deleted afterwards. Call with the lock held."""
    folder = Path(tempfile.mkdtemp(prefix=_staging_prefix(pin), dir=cache))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def publish(pin: Pin, staged: Path, cache: Path) -> None:
    """Makes the checked files in ``staged`` the cache entry, in place of a damaged one if there is
    one."""
    complete = staged / "complete"
    complete.mkdir()
    for file in pin.files:
        (staged / file.name).chmod(_READ_ONLY)
        (staged / file.name).rename(complete / file.name)
    entry = entry_folder(pin, cache)
    if entry.exists():
        entry.rename(staged / "damaged")
    complete.rename(entry)


def place(pin: Pin, entry: Path, output: Path) -> None:
    """Puts both files into ``output``: hard links where the file system supports them, otherwise
    copies.

    test.bin is placed last and an older one is removed first, so wherever it exists, it belongs to
    the train.bin beside it. Call with the lock held.
    """
    output.mkdir(parents=True, exist_ok=True)
    for file in pin.files:
        for leftover in output.glob(f".{file.name}.partial-*"):
            leftover.unlink(missing_ok=True)
    stale = [
        file for file in pin.files if not _is_in_place(file, entry / file.name, output / file.name)
    ]
    if pin.train in stale:
        (output / pin.test.name).unlink(missing_ok=True)
        stale = list(pin.files)
    for file in stale:
        aside = output / f".{file.name}.partial-{os.getpid()}"
        link_or_copy(entry / file.name, aside)
        os.replace(aside, output / file.name)


def _is_in_place(file: PinnedFile, cached: Path, target: Path) -> bool:
    if not target.is_file():
        return False
    if target.samefile(cached):
        return True
    try:
        file.check(target)
    except Mismatch:
        return False
    return True


def link_or_copy(cached: Path, target: Path) -> None:
    """The same file at another path, read-only; a hard link takes no disk space."""
    try:
        os.link(cached, target)
    except OSError:  # another file system, or one without hard links
        shutil.copyfile(cached, target)
        target.chmod(_READ_ONLY)
