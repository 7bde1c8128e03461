"""Prints the events of a release, and what it is waiting for."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from common.terminal import Progress
from infra.release.settings import Step
from infra.release.verdict.engine import Verdict

_COLOURS = {"promote": "green", "hold": "yellow", "roll back": "red"}


class Timeline(Protocol):
    """Who watches a release."""

    def event(self, text: str, style: str = "") -> None:
        """Reports an event."""

    def wait(self, text: str) -> None:
        """What is waited for just now."""

    def plan(self, steps: Sequence[Step], place: int) -> None:
        """The steps, and the place of the one that runs: their number once all are done."""

    def verdict(self, verdict: Verdict) -> None:
        """Reports a verdict."""


class ConsoleTimeline:
    """On a terminal or in a log."""

    def __init__(self, console: Console) -> None:
        self._console, self._start = console, time.monotonic()
        self._steps: Sequence[Step] = ()
        self._place, self._waiting, self._live = -1, "", Live(console=console, transient=True)
        self._progress: Progress | None = None

    @contextmanager
    def shown(self, what: str = "releasing") -> Iterator[ConsoleTimeline]:
        """With a living line where there is a terminal for it, elsewhere one every 20 s.

        Args:
            what: is done, for the lines of a log.
        """
        if self._console.is_terminal:
            with self._live:
                yield self
            return
        with Progress(what, console=self._console) as self._progress:
            yield self

    def event(self, text: str, style: str = "") -> None:
        elapsed = time.monotonic() - self._start
        text = f"[{style}]{escape(text)}[/]" if style else escape(text)
        self._console.print(f"[dim]{elapsed:7.1f} s[/]  {text}", highlight=False, soft_wrap=True)

    def wait(self, text: str) -> None:
        self._waiting = text
        if self._progress:
            self._progress.update(detail=text)
        self._refresh()

    def plan(self, steps: Sequence[Step], place: int) -> None:
        self._steps, self._place = steps, place
        self._refresh()

    def verdict(self, verdict: Verdict) -> None:
        decision = verdict.decision
        self.event(f"verdict: {decision}", f"bold {_COLOURS[decision]}")
        for reason in verdict.reasons:
            needs = "needs " if decision == "hold" else ""
            name, _, words = reason.partition(": ")
            self._console.print(
                f"             [dim]{escape(name)}: {needs}{escape(words)}[/]",
                highlight=False,
                soft_wrap=True,
            )

    def _refresh(self) -> None:
        if self._live.is_started:
            grid = Table.grid(padding=(0, 1))
            bar = [self._mark(n, step) for n, step in enumerate((*self._steps, None))]
            line = Text.from_markup("  ".join(bar)) if self._steps else Text()
            grid.add_row(Spinner("dots"), line, Text(self._waiting, style="dim"))
            self._live.update(grid, refresh=True)

    def _mark(self, place: int, step: Step | None) -> str:
        text = "100 %" if step is None else f"{100 * step.weight:.4g} %"
        if place < self._place:
            return f"[green]{text} ✓[/]"
        return f"[bold]{text} ▶[/]" if place == self._place else f"[dim]{text}[/]"
