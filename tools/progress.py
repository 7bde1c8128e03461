"""Progress of long work: a live bar on a terminal; in a log or a pipe, a line every 20 seconds."""

import threading
import time
from types import TracebackType

from rich import progress as bars
from rich.console import Console

EVERY_S = 20.0  # between the lines, whatever the work itself prints


class Progress:
    """Says how far a piece of work is, as long as the context lasts.

    A thread of its own prints the lines, so work whose steps cannot be counted, or take minutes
    each, is not silent either. Work that ends sooner prints none.
    """

    def __init__(
        self,
        what: str,
        total: float | None = None,
        *,
        completed: float = 0.0,
        console: Console | None = None,
        every_s: float | None = None,
    ) -> None:
        """Nothing is shown before the context begins.

        Args:
            what: the work as a participle or a name: ``exporting``, ``epoch 3/11``.
            total: in any unit; None if it cannot be said.
            completed: what was done before, from which no rate follows.
            console: where to (default: stderr).
            every_s: seconds between the lines (default: `EVERY_S`).
        """
        self._what = what
        self._detail = ""
        self._total = total
        self._before = self._completed = completed
        self._console = console or Console(stderr=True)
        self._every_s = EVERY_S if every_s is None else every_s
        self._started = time.monotonic()
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self._bar: bars.Progress | None = None

    def __enter__(self) -> "Progress":
        self._started = time.monotonic()
        if self._console.is_terminal:
            self._bar = _bar(self._console, counted=self._total is not None)
            self._bar.add_task(
                self._what, total=self._total, completed=int(self._completed), detail=self._detail
            )
            self._bar.start()
        else:
            self._thread = threading.Thread(target=self._speak, daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bar:
            self._bar.stop()
        if self._thread:
            self._ended.set()
            self._thread.join()

    def update(
        self, completed: float | None = None, *, what: str | None = None, detail: str | None = None
    ) -> None:
        """Notes how far the work is; may be called as often as one likes.

        Args:
            completed: of the total, in all.
            what: the work from now on, such as ``epoch 4/11``.
            detail: more to say, such as ``812 images/s``.
        """
        self._completed = self._completed if completed is None else completed
        self._what = self._what if what is None else what
        self._detail = self._detail if detail is None else detail
        if self._bar:
            self._bar.update(
                self._bar.task_ids[0],
                completed=self._completed,
                description=self._what,
                detail=self._detail,
            )

    def advance(self, steps: float = 1.0) -> None:
        """Notes that so much more is done."""
        self.update(self._completed + steps)

    def line(self) -> str:
        """What is printed now: ``epoch 3/11  27 %  812 images/s  4 min 10 s left``."""
        elapsed_s = time.monotonic() - self._started
        done = self._completed - self._before
        if self._total is None:
            parts = [f"still {self._what}, {duration(elapsed_s)}", self._detail]
        else:
            share = min(self._completed / self._total, 1.0) if self._total else 1.0
            left_s = elapsed_s * max(self._total - self._completed, 0.0) / done if done else None
            parts = [
                self._what,
                f"{int(100 * share)} %",
                self._detail,
                f"{duration(elapsed_s)} so far" if left_s is None else f"{duration(left_s)} left",
            ]
        return "  ".join(part for part in parts if part)

    def _speak(self) -> None:
        while not self._ended.wait(self._every_s):
            self._console.print(self.line(), markup=False, highlight=False, soft_wrap=True)


def duration(seconds: float) -> str:
    """For people: ``40 s``, ``4 min 10 s``, ``1 h 5 min``."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _bar(console: Console, *, counted: bool) -> bars.Progress:
    share = (bars.TaskProgressColumn("{task.percentage:>3.0f} %"),) if counted else ()
    return bars.Progress(
        bars.TextColumn("{task.description}"),
        bars.BarColumn(),
        *share,
        bars.TextColumn("{task.fields[detail]}"),
        bars.TimeRemainingColumn() if counted else bars.TimeElapsedColumn(),
        console=console,
        transient=True,
    )
