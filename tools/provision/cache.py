"""The machine cache: where it is, who may write to it now, how a folder appears in it whole.

Work on it tells of its progress on stderr: a bar at a terminal, sparse lines in a log.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO


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


MEGABYTE = 1_000_000
BAR_CELLS = 30
LINE_EVERY_S = 5.0
SILENCE_S = 10.0

_spoke_at = 0.0


def say(message: str) -> None:
    global _spoke_at
    _spoke_at = time.monotonic()
    print(f"kiln: {message}", file=sys.stderr, flush=True)


@contextmanager
def signs_of_life(work: str) -> Iterator[None]:
    """Prints a line whenever the block has been silent long; of nested blocks, only one does."""
    ended = threading.Event()
    started = time.monotonic()

    def speak() -> None:
        while not ended.wait(max(SILENCE_S - (time.monotonic() - _spoke_at), SILENCE_S / 10)):
            now = time.monotonic()
            if now - max(_spoke_at, started) >= SILENCE_S:
                say(f"{work}, {now - started:.0f} s so far")

    thread = threading.Thread(target=speak, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


class Progress:
    """Shows how many of ``total_bytes`` are there; call :meth:`show` as often as you like."""

    def __init__(self, title: str, total_bytes: int, stream: TextIO | None = None) -> None:
        self._title = title
        self._total = total_bytes
        self._stream = sys.stderr if stream is None else stream
        self._on_terminal = self._stream.isatty()
        self._last_line_at = time.monotonic()

    def show(self, done_bytes: int) -> None:
        """Draws a bar on a terminal; elsewhere prints a line every few seconds."""
        global _spoke_at
        if self._on_terminal:
            self._stream.write(f"\r{self._text(done_bytes)} {self._bar(done_bytes)}")
            self._stream.flush()
            _spoke_at = time.monotonic()
        elif time.monotonic() - self._last_line_at >= LINE_EVERY_S:
            self._last_line_at = _spoke_at = time.monotonic()
            self._line(done_bytes)

    def finish(self) -> None:
        if self._on_terminal:
            self.show(self._total)
            self._stream.write("\n")
            self._stream.flush()
        else:
            self._line(self._total)

    def _line(self, done_bytes: int) -> None:
        print(self._text(done_bytes), file=self._stream, flush=True)

    def _fraction(self, done_bytes: int) -> float:
        return min(done_bytes / self._total, 1.0) if self._total else 1.0

    def _text(self, done_bytes: int) -> str:
        percent = int(100 * self._fraction(done_bytes))
        done, total = done_bytes / MEGABYTE, self._total / MEGABYTE
        return f"kiln: {self._title} {percent:3d} % ({done:.0f} of {total:.0f} MB)"

    def _bar(self, done_bytes: int) -> str:
        filled = int(BAR_CELLS * self._fraction(done_bytes))
        return "[" + "#" * filled + "." * (BAR_CELLS - filled) + "]"
