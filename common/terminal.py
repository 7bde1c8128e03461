"""Console output: tables in a terminal or a pipe, and progress of long work."""

import threading
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, ProgressColumn, Task
from rich.progress import Progress as Bar
from rich.text import Text


def terminal(width: int = 120, *, stderr: bool = False) -> Console:
    """A console as wide as the terminal; `width` columns for files and pipes, so that tables do not
    wrap.
    """
    console = Console(stderr=stderr)
    return console if console.is_terminal else Console(stderr=stderr, width=width)


EVERY_S = 20.0  # at least, between lines in a log
_REFRESHES = 2  # refreshes of the bar per second: low, so that measurements are hardly disturbed


class Progress:
    """Shows the progress of work while the context is open.

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
        """Prints nothing before the context is entered.

        Args:
            what: the work, as a participle or noun: ``exporting``, ``epoch 3/11``.
            total: in any unit; None if unknown.
            completed: done before the start; excluded from the rate.
            console: where to (default: stderr).
            every_s: seconds between the lines (default: `EVERY_S`).
        """
        self._console = console or Console(stderr=True)
        self._every_s = EVERY_S if every_s is None else every_s
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self._bar: Bar | None = None
        self.begin(what, total, completed=completed)

    def __enter__(self) -> "Progress":
        self._started = time.monotonic()
        if self._console.is_terminal:
            columns = (_Line(self), BarColumn())
            self._bar = Bar(
                *columns, console=self._console, transient=True, refresh_per_second=_REFRESHES
            )
            self._bar.add_task("", total=self._total, completed=int(self._completed))
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

    def begin(self, what: str, total: float | None = None, *, completed: float = 0.0) -> None:
        """Starts the next piece of work; arguments as for the constructor."""
        self._what, self._total, self._detail = what, total, ""
        self._before = self._completed = completed
        self._started = time.monotonic()
        self._show()

    def update(
        self, completed: float | None = None, *, what: str | None = None, detail: str | None = None
    ) -> None:
        """Records the progress; cheap enough to be called often.

        Args:
            completed: of the total, in all.
            what: the work from now on, such as ``epoch 4/11``.
            detail: more to say, such as ``812 images/s``.
        """
        self._completed = self._completed if completed is None else completed
        self._what = self._what if what is None else what
        self._detail = self._detail if detail is None else detail
        self._show()

    def advance(self, steps: float = 1.0) -> None:
        """Adds to the completed amount."""
        self.update(self._completed + steps)

    def line(self) -> str:
        """The current line: ``epoch 3/11  27 %  812 images/s  4 min 10 s left``."""
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

    def _show(self) -> None:
        if self._bar:
            task = self._bar.task_ids[0]
            self._bar.update(task, total=self._total, completed=self._completed)

    def _speak(self) -> None:
        while not self._ended.wait(self._every_s):
            self._console.print(self.line(), markup=False, highlight=False, soft_wrap=True)


def plural(number: int, noun: str) -> str:
    """``1 run``, ``2 runs``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def duration(seconds: float) -> str:
    """Human-readable: ``40 s``, ``4 min 10 s``, ``1 h 5 min``."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


class _Line(ProgressColumn):
    """The text beside the progress bar."""

    def __init__(self, progress: Progress) -> None:
        super().__init__()
        self._progress = progress

    def render(self, task: Task) -> Text:
        return Text(self._progress.line())
