"""serve/drift/monitor.py: what it counts, what it leaves out, and that it never gets in the way."""

import logging
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from common.model.artifact import DriftReference, ParityVector, SignalReference
from common.model.drift import Counts, WatchLimits
from common.model.signals import CONFIDENCE, SIGNALS, image_signals
from serve.drift import monitor as module
from serve.drift.monitor import DriftMonitor, DriftState
from serve.exchange import Exchange
from tests.common.model.samples import sample_metadata

_HALVES = {"confidence": 0.75, "red_mean": 0.5, "green_mean": 0.5, "blue_mean": 0.5}
# What `pixels` gives: flat images of any colour.
REFERENCE = DriftReference(
    10_000,
    (0.5, 0.5),
    tuple(
        SignalReference(name, 0, 0, (_HALVES[name],), (0.5, 0.5))
        if name in _HALVES
        else SignalReference(name, 0, 0, (0.001,), (1.0, 0.0))
        for name in SIGNALS
    ),
)
METADATA = sample_metadata(drift_reference=REFERENCE)
LIMITS = WatchLimits(windows=(100, 400))

Images = NDArray[np.uint8]


def pixels(count: int, seed: int = 0, darkest: int = 0) -> Images:
    """(N, 4, 5, 3): each of a brightness between `darkest` and white."""
    random = np.random.default_rng(seed)
    levels = random.integers(darkest, 256, (count, 1, 1, 3))
    return np.broadcast_to(levels, (count, 4, 5, 3)).astype(np.uint8)


def call_of(images: Images) -> Exchange:
    """Answered; the classes take turns by the images' brightness."""
    exchange = Exchange(None)
    exchange.images = images
    share = images[:, 0, 0, 0].astype(np.float32) / 255
    exchange.probabilities = np.stack([share, 1 - share], axis=1)
    return exchange


def send(monitor: DriftMonitor, images: Images, batches: Sequence[int] = ()) -> None:
    """In calls of these sizes; the rest in one."""
    start = 0
    for size in [*batches, len(images) - sum(batches)]:
        monitor(call_of(images[start : start + size]), "POST", "/predict/batch")
        monitor.flush()
        start += size


def counted(images: Images) -> Counts:
    """From scratch."""
    probabilities = call_of(images).probabilities
    assert probabilities is not None
    counts = Counts.empty(REFERENCE)
    signals = image_signals(images) | {CONFIDENCE: probabilities.max(axis=1)}
    counts.add(REFERENCE, probabilities.argmax(axis=1).tolist(), signals)
    return counts


@pytest.fixture
def monitor() -> Iterator[DriftMonitor]:
    unlimited = DriftMonitor(METADATA, LIMITS, rate=1e9)
    yield unlimited
    unlimited.close()


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 90), max_size=8))
def test_what_it_counts_is_a_recount_whatever_the_sizes_of_the_calls(
    batches: Sequence[int],
) -> None:
    monitor, images = DriftMonitor(METADATA, LIMITS, rate=1e9), pixels(sum(batches) + 1)
    send(monitor, images, batches)
    state = monitor.state()
    monitor.close()
    assert state.totals == counted(images)
    assert state.seen == state.measured == len(images)
    for window in state.windows:
        part = window.window // 10
        assert window.images == min(window.window, len(images) - len(images) % part)


def test_the_state_has_every_call_so_far(monitor: DriftMonitor) -> None:
    monitor(call_of(pixels(1)), "POST", "/predict")
    assert monitor.state().measured == 1


def test_calls_without_answers_are_not_counted(monitor: DriftMonitor) -> None:
    monitor(Exchange(None), "GET", "/health")
    refused = Exchange(None)
    refused.images = pixels(3)
    monitor(refused, "POST", "/predict")
    assert monitor.state().seen == 0


def test_drift_is_raised_and_cleared_in_the_log(
    monitor: DriftMonitor, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    send(monitor, pixels(600), [100] * 5)
    assert not monitor.state().raised
    send(monitor, pixels(400, darkest=250), [100] * 3)
    assert monitor.state().raised
    send(monitor, pixels(1200, seed=1), [100] * 11)
    assert not monitor.state().raised
    records: Any = caplog.records
    said = [(r.levelname, r.message, r.window) for r in records]
    assert sorted(said) == [
        ("INFO", "drift cleared", 100),
        ("INFO", "drift cleared", 400),
        ("WARNING", "drift raised", 100),
        ("WARNING", "drift raised", 400),
    ]
    assert set(records[0].signals) <= {"red_mean", "green_mean", "blue_mean", "confidence"}
    assert records[0].model_version == METADATA.version


def test_traffic_beyond_the_rate_is_measured_in_part() -> None:
    now = [0.0]
    monitor = DriftMonitor(METADATA, LIMITS, rate=10, clock=lambda: now[0])
    send(monitor, pixels(100))
    assert monitor.state().measured == 100  # saved up
    send(monitor, pixels(100))
    assert monitor.state().measured == 100
    now[0] = 2.0
    send(monitor, pixels(80))
    assert monitor.state().measured == 120
    now[0] = 1e6
    for _ in range(3):
        send(monitor, pixels(100))
    state = monitor.state()
    monitor.close()
    assert (state.seen, state.measured) == (580, 220)


def test_a_part_of_a_batch_is_taken_evenly() -> None:
    now = [0.0]
    monitor = DriftMonitor(METADATA, LIMITS, rate=10, clock=lambda: now[0])
    send(monitor, pixels(100))
    before = monitor.state().totals
    now[0] = 5.0
    dark, bright = np.zeros((50, 4, 5, 3), np.uint8), np.full((50, 4, 5, 3), 255, np.uint8)
    send(monitor, np.concatenate([dark, bright]))
    after = monitor.state().totals
    monitor.close()
    red = zip(after.signals["red_mean"], before.signals["red_mean"], strict=True)
    assert [a - b for a, b in red] == [25, 25]


def test_large_images_are_measured_less_often() -> None:
    parity = ParityVector(b"", (), 1e-4)
    small, large = (
        DriftMonitor(sample_metadata(input_size=(side, side), parity=parity)) for side in (32, 224)
    )
    assert small._rate == 50
    assert large._rate == pytest.approx(50 / 49)
    assert (large._block, large._burst) == (1, 2)


def test_a_slow_thread_holds_nothing_up_and_memory_stays(
    monitor: DriftMonitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = threading.Event()

    def slow(images: Images) -> Any:
        free.wait(30)
        return image_signals(images)

    monkeypatch.setattr(module, "image_signals", slow)
    batch = pixels(100)
    for _ in range(500):
        monitor(call_of(batch), "POST", "/predict/batch")
    held = monitor._thread._work_queue.qsize()
    free.set()
    assert held < 5
    state = monitor.state()
    assert state.seen == 50_000
    assert 100 <= state.measured <= 500


def test_a_failure_reaches_the_log_once_and_no_request(
    monitor: DriftMonitor, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(_: Images) -> None:
        raise ValueError("broken")

    monkeypatch.setattr(module, "image_signals", broken)
    for _ in range(3):
        send(monitor, pixels(40))
    wrong = call_of(pixels(2))
    wrong.probabilities = np.zeros((0, 2), np.float32)
    monitor(wrong, "POST", "/predict")
    assert monitor.state().measured == 0
    assert [r.message for r in caplog.records] == [
        "drift monitor failed; requests are not affected"
    ]


def test_calls_from_many_threads_are_all_counted(monitor: DriftMonitor) -> None:
    images = pixels(90)
    states: list[DriftState] = []

    def work() -> None:
        for _ in range(20):
            monitor(call_of(images[:3]), "POST", "/predict")
            states.append(monitor.state())

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert monitor.state().measured == 240
    assert all(state.totals.images == state.measured for state in states)


def test_nothing_is_raised_after_the_end(monitor: DriftMonitor) -> None:
    monitor.close()
    send(monitor, pixels(40))
    assert monitor.state().measured == 0
