"""This machine's cached copy of the dataset: fetched once, complete or absent. Uses only the
standard library.

The cache is ``${KILN_CACHE:-${XDG_CACHE_HOME:-~/.cache}/kiln}/cifar10/<start of the pin's
digest>/``. Files are written to a staging folder beside it, checked, and renamed into place in one
step: a fetch that is killed at any moment leaves either no entry or a complete one. A file lock
serialises concurrent fetches and distinguishes leftovers from work in progress.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from ml.data.cifar10_pin import Mismatch, Pin, PinnedFile
from ml.data.source import Progress

_READ_ONLY = 0o444
_POLL_S = 0.1


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
