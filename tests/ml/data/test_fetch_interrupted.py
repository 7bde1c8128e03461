"""Fetches that are killed at every step, or that meet: what they leave is whole or not there."""

from __future__ import annotations

import io
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from ml.data.cifar10_files import Mismatch, Pin, Progress, entry_folder
from ml.data.fetch import fetch
from tests.ml.data.tiny_dataset import FakeSource, tiny_dataset

OLD, NEW = tiny_dataset(seed=1), tiny_dataset(seed=2)
# What Python announces before it changes the file system, and before it opens a file.
STEPS = (
    "open",
    "os.rename",
    "os.link",
    "os.remove",
    "os.rmdir",
    "os.mkdir",
    "os.chmod",
    "os.listdir",
)


def run_child(action: Callable[[], None]) -> int:
    """Run ``action`` in a forked child (quicker than a new interpreter); its wait status."""
    child = os.fork()
    if child == 0:
        try:
            action()
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitpid(child, 0)[1]


def die_at_step(number: int) -> None:
    """From now on count file system steps, and be killed before the given one."""
    steps = iter(range(number, -1, -1))

    def count(event: str, args: tuple[object, ...]) -> None:
        if event in STEPS and next(steps) == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)


def fetch_new(cache: Path, output: Path, before: Callable[[], object] = lambda: None) -> None:
    def deliver(pin: Pin, folder: Path) -> None:
        before()
        NEW.write_files(folder)

    source = FakeSource("source", deliver)
    fetch(NEW.pin, [source], cache=cache, output=output, progress=Progress(io.StringIO()))


def is_whole(pin: Pin, folder: Path) -> bool:
    try:
        pin.check(folder)
    except Mismatch:
        return False
    return True


def assert_nothing_looks_complete_that_is_not(cache: Path, output: Path) -> None:
    entry = entry_folder(NEW.pin, cache)
    assert is_whole(NEW.pin, entry) or not entry.exists() or "damaged" in _content(entry)
    if (output / "train.bin").exists() and (output / "test.bin").exists():
        assert is_whole(NEW.pin, output) or is_whole(OLD.pin, output)


def _content(entry: Path) -> str:
    return (entry / "train.bin").read_bytes().decode(errors="replace")


def test_a_kill_at_any_step_leaves_no_half_and_the_next_fetch_cleans_up(tmp_path: Path) -> None:
    for step in range(1000):
        cache, output = tmp_path / str(step) / "cache", tmp_path / str(step) / "output"
        OLD.write_files(output)
        damaged = entry_folder(NEW.pin, cache)
        damaged.mkdir(parents=True)
        (damaged / "train.bin").write_bytes(b"damaged")

        def fetch_and_die(at: int = step, cache: Path = cache, output: Path = output) -> None:
            die_at_step(at)
            fetch_new(cache, output)

        status = run_child(fetch_and_die)
        assert_nothing_looks_complete_that_is_not(cache, output)
        if os.WIFEXITED(status):
            break
        fetch_new(cache, output)
        assert is_whole(NEW.pin, output)
        assert {path.name for path in output.iterdir()} == {"train.bin", "test.bin"}
        assert {path.name for path in cache.iterdir()} == {damaged.name, f".{damaged.name}.lock"}
    assert os.waitstatus_to_exitcode(status) == 0
    assert step > 20, "the kills must have reached into the fetch"


def test_fetches_that_meet_ask_the_source_once_and_all_get_the_files(tmp_path: Path) -> None:
    asked = tmp_path / "asked"
    asked.touch()

    def ask_slowly() -> None:
        with asked.open("a") as file:
            file.write("once\n")
        time.sleep(0.3)

    children = []
    for number in range(4):
        child = os.fork()
        if child == 0:
            try:
                fetch_new(tmp_path / "cache", tmp_path / f"output{number % 2}", ask_slowly)
                os._exit(0)
            finally:
                os._exit(1)
        children.append(child)
    statuses = [os.waitpid(child, 0)[1] for child in children]

    assert statuses == [0, 0, 0, 0]
    assert asked.read_text() == "once\n"
    assert is_whole(NEW.pin, tmp_path / "output0")
    assert is_whole(NEW.pin, tmp_path / "output1")
