"""What the dataset's sources share: shape, error, progress on stderr. Standard library alone."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Protocol, TextIO

from ml.data.cifar10_pin import Pin


class SourceError(Exception):
    """A source cannot deliver; the message is one line that says why."""


class Source(Protocol):
    """A place that may hold the dataset."""

    @property
    def name(self) -> str: ...

    def deliver(self, pin: Pin, folder: Path, progress: Progress) -> None:
        """Write both files of ``pin`` into the empty ``folder``; temporary files may lie there too.

        The caller checks the files against the pin and deletes whatever else is left.

        Raises:
            SourceError: it cannot.
        """


def typed_path(text: str) -> Path:
    """A path as somebody typed it. ``bazel run`` changes the folder, but says which it was."""
    return Path(os.environ.get("BUILD_WORKING_DIRECTORY", ""), Path(text).expanduser())


class Progress:
    """Lines for people: redrawn in place on a terminal, one every few seconds elsewhere."""

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
        """Tell how far ``what`` is; called as often as convenient, shown at most every interval."""
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
