"""What is kept of the answers, how much memory it takes, and what a failure costs."""

import errno
import io
import logging
import os
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from common.captures import Capture, Captures, sampling_probability
from common.objects import FolderStore, StoreError
from serve.capture import recorder as module
from serve.capture.recorder import NO_ROOM, NOT_WRITTEN, Recorder, png
from serve.exchange import Exchange
from tests.helpers.waiting import wait_until
from tests.serve.serving import pixels

VERSION = "a" * 64
SURE, UNSURE = [0.98, 0.01, 0.01], [0.34, 0.33, 0.33]


class Faulty(FolderStore):
    """A folder that is away for as long as a test says."""

    is_away = True
    tries = 0

    def create(self, key: str, data: bytes) -> bool:
        self.tries += 1
        if self.is_away:
            raise StoreError("the disk is full")
        return super().create(key, data)


def exchange(count: int = 1, of: list[float] = SURE, **facts: Any) -> Exchange:
    """One that was answered with so many images."""
    found = Exchange(None)
    found.images = np.stack([pixels(seed) for seed in range(count)])
    found.probabilities = np.array([of] * count, np.float32)
    found.status = 200
    for name, value in facts.items():
        setattr(found, name, value)
    return found


def recorder(store: FolderStore, **options: Any) -> Recorder:
    options = {"share": 1.0, "unsure": 1.0, "age_s": 3600.0, **options}
    return Recorder(lambda: store, VERSION, **options)


def kept(store: FolderStore) -> list[Capture]:
    return list(Captures(store).rows())


def test_a_kept_answer_is_the_answer_and_the_pixels_that_the_model_saw(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    one, told = recorder(store), exchange(3, UNSURE)
    before = time.time()
    one(told, "POST", "/predict/batch")
    assert one.holds(told.request_id, 2)
    assert one.flush(30)
    assert not one.holds(told.request_id, 2)
    assert one.index.has(told.request_id, 2)
    rows = kept(store)
    assert [row.key for row in rows] == [(told.request_id, index) for index in range(3)]
    assert told.images is not None
    for row, image in zip(rows, told.images, strict=True):
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(row.image))), image)
        assert row.probabilities == pytest.approx(UNSURE)
        assert row.model_version == VERSION
        assert before <= row.time <= time.time()
    assert one.counts == (3, {"no-room": 0, "not-written": 0, "failed": 0}, 0)
    one.close(1)


@given(arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9), st.just(3))))
def test_a_png_holds_the_pixels_and_nothing_else(image: Any) -> None:
    with Image.open(io.BytesIO(png(image))) as file:
        assert (file.format, file.mode, file.info) == ("PNG", "RGB", {})
        assert np.array_equal(np.asarray(file), image)


def test_a_png_of_a_large_image_has_several_blocks() -> None:
    image = pixels(1, 300, 200)
    with Image.open(io.BytesIO(png(image))) as file:
        assert np.array_equal(np.asarray(file), image)


def test_an_image_of_a_batch_is_named_by_its_place_in_the_request(tmp_path: Path) -> None:
    one = recorder(FolderStore(tmp_path))
    told = exchange(2, places=[1, 4])
    one(told, "POST", "/predict/batch")
    one.close(30)
    assert [row.index for row in kept(FolderStore(tmp_path))] == [1, 4]


@pytest.mark.parametrize(
    "facts", [{"status": 503}, {"is_internal": True}, {"images": None, "probabilities": None}]
)
def test_what_is_no_answer_to_a_caller_is_not_kept(tmp_path: Path, facts: Any) -> None:
    one = recorder(FolderStore(tmp_path))
    one(exchange(1, **facts), "POST", "/predict")
    one.close(30)
    assert not kept(FolderStore(tmp_path))


def test_answers_are_kept_as_often_as_their_rows_say(tmp_path: Path) -> None:
    one = recorder(FolderStore(tmp_path), share=0.1, unsure=0.6)
    small = np.zeros((100, 2, 2, 3), np.uint8)  # all of them fit into memory
    for _ in range(40):
        one(exchange(100, images=small), "POST", "/predict/batch")
        one(exchange(100, UNSURE, images=small), "POST", "/predict/batch")
    one.close(30)
    rows = kept(FolderStore(tmp_path))
    for row in rows:
        assert row.probability == sampling_probability(row.probabilities, 0.1, 0.6)
    found = Counter(round(row.probability, 3) for row in rows)
    assert set(found) == {0.115, 0.595}
    for probability, count in found.items():  # within five standard deviations
        assert abs(count - 4000 * probability) < 5 * (4000 * probability) ** 0.5
    assert sum(1 / row.probability for row in rows) == pytest.approx(8000, rel=0.15)


def test_a_batch_is_written_when_it_is_full_or_old(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    one = recorder(store, rows=4, age_s=0.2)
    one(exchange(4), "POST", "/predict/batch")
    wait_until(lambda: len(kept(store)) == 4)
    one(exchange(), "POST", "/predict")
    wait_until(lambda: len(kept(store)) == 5)
    assert len(store.entries("captures/")) == 2
    one.close(1)


def test_only_a_flush_writes_where_a_process_may_be_frozen(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    one = recorder(store, rows=2, age_s=0.05, by_itself=False)
    one(exchange(), "POST", "/predict")
    assert one.flush_due(30)  # there is nothing that is due
    assert not kept(store)
    time.sleep(0.06)
    assert one.flush_due(30)
    assert len(kept(store)) == 1
    one(exchange(2), "POST", "/predict/batch")  # is full
    assert one.flush_due(30)
    assert len(kept(store)) == 3
    one.close(1)


def test_a_call_in_the_pause_behind_a_failure_does_not_try_again(tmp_path: Path) -> None:
    store = Faulty(tmp_path)
    one = recorder(store, rows=1, by_itself=False)
    one(exchange(), "POST", "/predict")
    assert not one.flush_due(30)
    for _ in range(5):
        one(exchange(), "POST", "/predict")
        assert one.flush_due(30)
    assert store.tries == 1
    store.is_away = False
    assert one.flush(30)  # as at the end of the process
    assert len(kept(store)) == 6
    one.close(1)


def test_a_store_that_is_away_costs_a_line_and_nothing_is_written_twice(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(module, "_LONGEST_PAUSE_S", 0.02)
    caplog.set_level(logging.INFO)
    store = Faulty(tmp_path)
    one = recorder(store, rows=1)
    for _ in range(3):
        one(exchange(10), "POST", "/predict/batch")
    wait_until(lambda: store.tries > 3)
    assert one.counts.kept == 0
    assert one.counts.waiting_bytes > 0
    store.is_away = False
    wait_until(lambda: one.counts.kept == 30)
    assert len(kept(store)) == 30
    assert len({row.key for row in kept(store)}) == 30
    assert one.counts.waiting_bytes == 0
    wait_until(lambda: "captures are written again" in caplog.messages)
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    one.close(1)


def test_a_disk_that_fills_up_amid_a_batch_keeps_no_part_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "_FIRST_PAUSE_S", 0.01)
    write, room = os.write, 100

    def limited(handle: int, data: Any) -> int:
        if room < len(data):
            write(handle, bytes(data)[:room])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(handle, data)

    monkeypatch.setattr(os, "write", limited)
    store = FolderStore(tmp_path)
    one = recorder(store, rows=3)
    one(exchange(3), "POST", "/predict/batch")
    wait_until(lambda: caplog.messages)
    assert not kept(store)
    assert os.strerror(errno.ENOSPC) in str(vars(caplog.records[0])["reason"])
    room = 1 << 20
    wait_until(lambda: one.counts.kept == 3)
    assert len(kept(store)) == 3
    assert not store.unfinished()
    one.close(1)


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.sampled_from(["ask", "batch", "away", "back", "flush", "due"]), max_size=25),
    st.booleans(),
)
def test_each_answer_is_kept_once_or_counted_as_lost(steps: list[str], by_itself: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = Faulty(Path(folder))
        store.is_away = False
        one = recorder(store, rows=3, by_itself=by_itself)
        drawn = 0
        for step in steps:
            if step in ("ask", "batch"):
                count = 1 if step == "ask" else 4
                one(exchange(count), "POST", "/predict")
                drawn += count
            elif step in ("away", "back"):
                store.is_away = step == "away"
            else:
                (one.flush if step == "flush" else one.flush_due)(5)
        one.close(5)
        counts = one.counts
        assert counts.kept + sum(counts.dropped.values()) == drawn
        keys = [row.key for row in kept(store)]
        assert len(keys) == len(set(keys)) == counts.kept
        assert counts.kept == drawn or store.is_away


def test_pauses_between_tries_grow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_FIRST_PAUSE_S", 0.02)
    store = Faulty(tmp_path)
    one = recorder(store, rows=1)
    one(exchange(), "POST", "/predict")
    time.sleep(0.7)
    assert 2 <= store.tries <= 7  # behind 0.02, 0.04, … 0.64 s, give or take a quarter
    one.close(5)  # waits for the last try


def test_answers_in_the_pause_behind_a_failure_cause_no_further_tries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_FIRST_PAUSE_S", 60.0)
    store = Faulty(tmp_path)
    one = recorder(store, rows=1)
    for answers in range(6):
        one(exchange(), "POST", "/predict")
        wait_until(lambda count=answers + 1: len(one._batches) == count and store.tries == 1)  # type: ignore[misc]
    store.is_away = False
    assert one.flush(30)
    assert (one.counts.kept, store.tries) == (6, 7)


def test_memory_is_bounded_and_what_has_no_room_is_counted(tmp_path: Path) -> None:
    store = Faulty(tmp_path)
    one = recorder(store)
    told = exchange(100)
    for _ in range(60):
        one(told, "POST", "/predict/batch")
    assert one.counts.waiting_bytes <= module._MOST_BYTES
    wait_until(lambda: store.tries > 0)
    counts = one.counts
    assert counts.dropped[NO_ROOM] > 3000
    one.close(5)  # waits for the last try
    lost = one.counts.dropped
    assert lost[NOT_WRITTEN] > 100
    one(told, "POST", "/predict/batch")  # behind the end
    assert one.counts.dropped[NOT_WRITTEN] == lost[NOT_WRITTEN] + 100


def test_a_mistake_is_logged_once_and_reaches_nobody(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    one = recorder(FolderStore(tmp_path))
    broken = exchange(2, places=[0])  # too few
    for _ in range(3):
        one(broken, "POST", "/predict/batch")
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    one.close(30)
    assert len(kept(FolderStore(tmp_path))) == 3


def test_copies_of_a_process_write_under_names_of_their_own(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    one = recorder(store)
    one(exchange(5), "POST", "/predict/batch")  # the original's: no copy's
    one.renew()
    one(exchange(), "POST", "/predict")
    assert one.flush(30)
    first = store.entries("captures/")
    one.renew()
    one(exchange(), "POST", "/predict")
    assert one.flush(30)
    one.close(1)
    assert len(kept(store)) == 2
    assert len({entry.key.split("/")[-1] for entry in [*first, *store.entries("captures/")]}) == 2
