"""serve/capture/feedback.py: what is found in how much memory, and how often the store is asked."""

import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.captures import Capture, Captures
from common.objects import FolderStore
from serve.capture import feedback as module
from serve.capture.feedback import HOURS, AnswerIndex

VERSION = "ab" * 32
NOW = 1_796_040_000.0


def row(number: int, at: float = NOW) -> Capture:
    return Capture(f"{number:032x}", number % 3, at, VERSION, (0.9, 0.1), 0.5, b"png")


def found(index: AnswerIndex, store: FolderStore, number: int, budget_s: float = 30.0) -> bool:
    return index.find(store, f"{number:032x}", number % 3, time.monotonic(), budget_s)


class Counting(FolderStore):
    """Counts what is asked of it."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.listed: list[str] = []
        self.read_keys: list[str] = []

    def entries(self, prefix: str, after: str = "") -> Any:
        self.listed.append(prefix)
        return super().entries(prefix, after)

    def read(self, key: str) -> bytes:
        self.read_keys.append(key)
        return super().read(key)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Counting:
    monkeypatch.setattr("time.time", lambda: NOW)
    return Counting(tmp_path)


@given(st.lists(st.tuples(st.text(max_size=3), st.integers(0, 5))), st.text(max_size=3))
def test_it_has_what_was_added_and_nothing_else(answers: list[Any], other: str) -> None:
    index = AnswerIndex()
    index.add("captures/a", answers)
    assert all(index.has(*answer) for answer in answers)
    assert index.has(other, 0) == ((other, 0) in answers)


def test_answers_of_the_last_day_are_found_and_each_batch_is_read_once(store: Counting) -> None:
    captures, index = Captures(store), AnswerIndex()
    for hour in range(30):
        captures.write("w", hour, [row(hour)], NOW - 3600 * hour)
    assert found(index, store, 0)
    assert len(store.read_keys) == 1  # the newest hour was enough
    assert found(index, store, HOURS - 1)
    assert not found(index, store, HOURS)
    assert not found(index, store, 99)
    assert len(store.read_keys) == len(set(store.read_keys)) == HOURS
    store.listed.clear()
    assert not found(index, store, 99)
    assert len(store.listed) == 2  # only where something may come


def test_a_damaged_batch_hides_no_other(store: Counting) -> None:
    captures, index = Captures(store), AnswerIndex()
    captures.write("a", 0, [row(1)], NOW)
    store.create("captures/2026-11-30/12/b-000000.jsonl.gz", b"no gzip")
    captures.write("c", 0, [row(2)], NOW)
    assert found(index, store, 1)
    assert found(index, store, 2)


def test_what_takes_too_long_goes_on_the_next_time(store: Counting) -> None:
    captures, index = Captures(store), AnswerIndex()
    for number in range(5):
        captures.write("w", number, [row(number)], NOW)
    read = store.read

    def slow(key: str) -> bytes:
        time.sleep(0.02)
        return read(key)

    store.read = slow  # type: ignore[method-assign]
    looks = 1
    while not found(index, store, 0, budget_s=0.03):
        looks += 1
    assert 2 <= looks <= 5
    assert len(store.read_keys) == len(set(store.read_keys)) == 5


def test_memory_is_bounded_and_the_newest_stay(
    store: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MOST_ROWS", 10)
    captures, index = Captures(store), AnswerIndex()
    for hour in range(8):
        rows = [row(4 * hour + place) for place in range(4)]
        captures.write("w", hour, rows, NOW - 3600 * hour)
    for number in range(32):
        assert found(index, store, number) == (number < 8)
    reads = len(store.read_keys)
    assert not found(index, store, 31)
    assert len(store.read_keys) - reads <= 6  # those without room are not read for ever
