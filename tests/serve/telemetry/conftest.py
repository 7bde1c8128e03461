"""Threads of exporters must end with the test that started them."""

import threading
import time
from collections.abc import Iterator

import pytest

PATIENCE_S = 20.0  # for a request to a collector that has just been stopped


def _exporters() -> set[threading.Thread]:
    return {one for one in threading.enumerate() if one.name.startswith(("export-", "Otel"))}


def _threads_end() -> Iterator[None]:
    """An exporter left behind would draw its jitter from the `random` of later tests."""
    before = _exporters()
    yield
    end = time.monotonic() + PATIENCE_S
    for thread in _exporters() - before:
        thread.join(max(0.0, end - time.monotonic()))
    assert not _exporters() - before


of_each_test = pytest.fixture(autouse=True)(_threads_end)
of_each_module = pytest.fixture(autouse=True, scope="module")(_threads_end)
