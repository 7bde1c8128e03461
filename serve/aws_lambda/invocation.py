"""One invocation: answer the event, then send what it left, because a freeze may follow at once."""

import time
from collections.abc import Callable
from typing import Any

MARGIN_S = 0.1  # of an invocation's time that is never spent on telemetry
_LONGEST_PAUSE_S = 60.0

Handler = Callable[[Any, Any], Any]
Flush = Callable[[float], bool]


class Flushing:
    """A handler that has everything flushed before its answer returns to Lambda.

    A collector that does not take it in time costs the call `budget_s` at most, and then few calls
    anything: there is a pause, twice as long after each failure, in which nobody waits. What could
    not be sent stays in its queue.
    """

    def __init__(
        self,
        answer: Handler,
        flush: Flush,
        budget_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._answer, self._flush, self._budget_s, self._clock = answer, flush, budget_s, clock
        self._failures = 0
        self._paused_until = float("-inf")

    def __call__(self, event: Any, context: Any) -> Any:
        try:
            return self._answer(event, context)
        finally:
            self._send(context.get_remaining_time_in_millis() / 1e3)

    def reset(self) -> None:
        """The next call waits for the collector, whatever happened before."""
        self._failures, self._paused_until = 0, float("-inf")

    def _send(self, remaining_s: float) -> None:
        deadline_s = max(0.0, min(self._budget_s, remaining_s - MARGIN_S))
        if self._clock() < self._paused_until:
            self._flush(0.0)  # begins to send, for whatever time the process still runs
        elif self._flush(deadline_s):
            self._failures = 0
        else:
            self._failures += 1
            pause_s = min(_LONGEST_PAUSE_S, self._budget_s * 2**self._failures)
            self._paused_until = self._clock() + pause_s
