"""serve/telemetry/export.py: nobody waits too long, and what is lost is counted."""

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from serve.telemetry.export import ExportQueue, Worker

PATIENCE_S = 30.0
NEVER_S = 3600.0


def patience() -> float:
    return time.monotonic() + PATIENCE_S


@contextmanager
def blocked_worker() -> Iterator[tuple[Worker, threading.Event]]:
    """One whose work hangs until the event is set."""
    release = threading.Event()
    worker = Worker("test", lambda: release.wait(PATIENCE_S), NEVER_S)
    try:
        yield worker, release
    finally:
        release.set()
        worker.stop()


def test_whoever_waits_sees_the_work_done() -> None:
    done: list[int] = []

    def work() -> bool:
        done.append(1)
        return True

    worker = Worker("test", work, NEVER_S)
    assert worker.wait(worker.ask(), patience())
    assert done == [1]
    worker.stop()


def test_work_that_hangs_is_not_waited_for_beyond_the_deadline() -> None:
    with blocked_worker() as (worker, release):
        ticket = worker.ask()
        assert not worker.wait(ticket, time.monotonic() + 0.01)
        release.set()
        assert worker.wait(ticket, patience())


def test_what_is_asked_during_the_work_is_done_after_it() -> None:
    with blocked_worker() as (worker, release):
        first, second = worker.ask(), worker.ask()
        release.set()
        assert worker.wait(first, patience())
        assert worker.wait(second, patience())


def test_a_failure_is_no_success_and_does_not_end_the_thread() -> None:
    results = iter([True, False])

    def work() -> bool:
        if next(results):
            raise OSError
        return True

    worker = Worker("test", work, NEVER_S)
    assert not worker.wait(worker.ask(), patience())
    assert worker.wait(worker.ask(), patience())
    worker.stop()


def test_the_interval_alone_makes_it_work() -> None:
    done = threading.Event()

    def work() -> bool:
        done.set()
        return True

    worker = Worker("test", work, 0.01)
    assert done.wait(PATIENCE_S)
    worker.stop()


def test_a_full_queue_drops_what_comes_and_counts_it() -> None:
    sent: list[int] = []
    release = threading.Event()

    def export(items: Sequence[int]) -> bool:
        release.wait(PATIENCE_S)
        sent.extend(items)
        return True

    box = ExportQueue("test", export, NEVER_S, capacity=5, batch=9)
    box.put([1, 2, 3])
    box.put([4, 5, 6, 7])
    box.put([8])
    release.set()
    assert box.worker.wait(box.worker.ask(), patience())
    assert len(sent) + box.dropped == 8
    assert sent == sorted(sent)
    box.worker.stop()


def test_a_full_batch_is_sent_without_waiting_and_the_rest_when_asked() -> None:
    sent: list[list[int]] = []
    first = threading.Event()

    def export(items: Sequence[int]) -> bool:
        sent.append(list(items))
        first.set()
        return True

    box = ExportQueue("test", export, NEVER_S, capacity=100, batch=4)
    box.put([1, 2, 3])
    box.put([4])
    assert first.wait(PATIENCE_S)
    box.put([5])
    assert box.worker.wait(box.worker.ask(), patience())
    assert sent == [[1, 2, 3, 4], [5]]
    box.worker.stop()


def test_what_the_collector_refuses_is_counted() -> None:
    def refuse(items: Sequence[int]) -> bool:
        if len(items) == 1:
            raise OSError
        return False

    box = ExportQueue("test", refuse, NEVER_S, capacity=100, batch=4)
    for items in ([1, 2], [3]):
        box.put(items)
        assert not box.worker.wait(box.worker.ask(), patience())
    assert box.dropped == 3
    box.worker.stop()
