"""Progress on stderr: a bar for a person at a terminal, sparse lines for a log."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

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
