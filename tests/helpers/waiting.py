"""Waiting for what other processes do."""

from __future__ import annotations

import time
from collections.abc import Callable

# More than the minute in which uvicorn notices some deaths; counts only where a test fails.
PATIENCE_S = 150.0


def wait_until(
    holds: Callable[[], object],
    what: str = "what was waited for",
    patience_s: float = PATIENCE_S,
    every_s: float = 0.02,
) -> None:
    """Returns as soon as `holds`, asked so often, is true.

    Raises:
        AssertionError: it is still false after `patience_s`.
    """
    deadline = time.monotonic() + patience_s
    while not holds():
        assert time.monotonic() < deadline, f"waited {patience_s:g} s for {what}"
        time.sleep(every_s)
