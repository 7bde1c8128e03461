"""common/terminal.py."""

import io
import time
from collections.abc import Callable

import pytest
from rich.console import Console

from common import terminal
from common.terminal import Progress, duration


@pytest.fixture
def after(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Sets the seconds that have passed since the clock's start."""
    now = 0.0

    def at(seconds: float) -> None:
        nonlocal now
        now = seconds

    monkeypatch.setattr("common.terminal.time.monotonic", lambda: now)
    return at


def _wait_for(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.005)


def test_countable_work_says_share_detail_and_time_left(after: Callable[[float], None]) -> None:
    training = Progress("epoch 1/11", 1000)
    after(100)
    training.update(250, what="epoch 3/11", detail="812 images/s")
    assert training.line() == "epoch 3/11  25 %  812 images/s  5 min 0 s left"


def test_what_was_done_before_says_nothing_about_the_rate(after: Callable[[float], None]) -> None:
    training = Progress("training", 1000, completed=800)
    after(10)
    assert training.line() == "training  80 %  10 s so far"
    training.advance(100)
    assert training.line() == "training  90 %  10 s left"


def test_uncountable_work_says_how_long_it_lasts(after: Callable[[float], None]) -> None:
    export = Progress("exporting")
    after(40)
    assert export.line() == "still exporting, 40 s"


@pytest.mark.parametrize(("done", "share"), [(0, "0 %"), (999, "99 %"), (1000, "100 %")])
def test_only_what_is_done_counts_as_done(done: int, share: str) -> None:
    work = Progress("work", 1000)
    work.update(done)
    assert work.line().split("  ")[1] == share


def test_a_single_silent_step_is_spoken_of_again_and_again() -> None:
    said = io.StringIO()
    with Progress("thinking", console=Console(file=said), every_s=0.01):
        _wait_for(lambda: said.getvalue().count("still thinking, ") >= 2)
    lines = said.getvalue()
    time.sleep(0.05)
    assert said.getvalue() == lines  # the thread ended with the context


def test_lines_are_as_rare_as_stated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terminal, "EVERY_S", 3600)
    said = io.StringIO()
    with Progress("counting", 100, console=Console(file=said)) as work:
        for _ in range(100):
            work.advance()
    assert said.getvalue() == ""
    assert work.line().startswith("counting  100 %")


def test_an_error_ends_the_lines_and_passes_through() -> None:
    said = io.StringIO()
    work = Progress("failing", console=Console(file=said), every_s=0.01)
    with pytest.raises(ZeroDivisionError), work:
        raise ZeroDivisionError
    lines = said.getvalue()
    time.sleep(0.05)
    assert said.getvalue() == lines


def test_the_next_piece_of_work_is_counted_by_itself(after: Callable[[float], None]) -> None:
    work = Progress("reading", 10)
    after(30)
    work.update(10, detail="fast")
    work.begin("writing", 4)
    after(40)
    work.advance()
    assert work.line() == "writing  25 %  30 s left"


@pytest.mark.parametrize("total", [None, 4])
def test_a_terminal_shows_a_bar_that_disappears(
    total: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    said = io.StringIO()
    console = Console(file=said, force_terminal=True, width=120)
    with Progress("begun", total, console=console, every_s=0.001) as work:
        work.update(3, what="epoch 3/4", detail="812 images/s")
        line = work.line()
        work._bar.refresh()  # type: ignore[union-attr]
    assert line in said.getvalue()
    assert "━" in said.getvalue()
    assert said.getvalue().count("\n") <= 1  # no lines beside the bar
    assert said.getvalue().endswith("\x1b[2K")  # which is erased in the end


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "0 s"), (59.4, "59 s"), (59.6, "1 min 0 s"), (250, "4 min 10 s"), (3900, "1 h 5 min")],
)
def test_durations_are_for_people(seconds: float, text: str) -> None:
    assert duration(seconds) == text
