"""The machine cache: where it is, who may write to it now, how a folder appears in it whole."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tools.provision.progress import say as say  # what provisions says so by this module
from tools.provision.progress import signs_of_life


class ProvisionError(Exception):
    """A problem that a person has to solve; the message says what it is and how."""


class NotOfferedError(ProvisionError):
    """This machine's package sources do not offer what is wanted; another way may give it."""


def cache_root() -> Path:
    """``$KILN_CACHE``, else ``kiln`` below ``$XDG_CACHE_HOME`` or ``~/.cache``."""
    chosen = os.environ.get("KILN_CACHE")
    if chosen:
        return Path(chosen).absolute()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache").absolute() / "kiln"


@contextmanager
def lock(path: Path, work: str) -> Iterator[None]:
    """Holds ``path`` exclusively; a second process says so and waits. Neither is silent.

    The kernel drops the lock with the process, so a killed holder never blocks the next one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"{work} is already under way in another process; waiting for it")
            with signs_of_life(f"waiting for {work}"):
                fcntl.flock(handle, fcntl.LOCK_EX)
        with signs_of_life(work):
            yield


@contextmanager
def scratch(name: Path) -> Iterator[Path]:
    """A new folder beside ``name``, gone when the block ends.

    The caller holds the lock of ``name``: leftovers of killed attempts are swept here.
    """
    name.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{name.name}.partial-"
    for leftover in name.parent.glob(prefix + "*"):
        shutil.rmtree(leftover, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=name.parent))
    try:
        folder.chmod(0o755)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def staged(target: Path) -> Iterator[Path]:
    """A :func:`scratch` folder that takes the name ``target`` when the block ends well."""
    with scratch(target) as aside:
        yield aside
        aside.rename(target)


def write_whole(path: Path, text: str, mode: int = 0o644) -> None:
    """The file appears with all of ``text`` or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.touch(mode)
    aside.write_text(text)
    os.replace(aside, path)
