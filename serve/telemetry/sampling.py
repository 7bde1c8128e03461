"""Trace sampling: OpenTelemetry's samplers without an object for each request."""

import time
from collections.abc import Callable
from dataclasses import dataclass

SAMPLERS = (
    "always_on",
    "always_off",
    "traceidratio",
    "parentbased_always_on",
    "parentbased_always_off",
    "parentbased_traceidratio",
)
_ERRORS = 10  # traces of errors in a second, beside the ratio: an overload makes thousands
_HALF = 16  # hexadecimal digits of a trace id that decide, the last ones


@dataclass(frozen=True)
class Sampler:
    """Takes `ratio` of the traces, the same ones as every other service with this ratio."""

    ratio: float = 0.0
    follows_parent: bool = True  # a caller's own decision counts, where there is one
    errors: bool = True  # are taken beside the ratio

    @classmethod
    def named(cls, name: str, ratio: float) -> "Sampler":
        """The sampler of a name in `SAMPLERS`; the ratio is for those that have one."""
        kind = name.removeprefix("parentbased_")
        fixed = {"always_on": 1.0, "always_off": 0.0}
        return cls(fixed.get(kind, ratio), kind != name, errors=kind != "always_off")

    def takes(self, trace_id: str, has_parent: bool, parent_sampled: bool) -> bool:
        """Whether the trace of 32 hexadecimal digits is recorded.

        Source: opentelemetry.sdk.trace.sampling.TraceIdRatioBased, which compares the same digits.
        """
        if has_parent and self.follows_parent:
            return parent_sampled
        return int(trace_id[_HALF:], 16) < round(self.ratio * 2**64)


class ErrorBudget:
    """Lets so many through in each second."""

    def __init__(
        self, per_second: int = _ERRORS, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._per_second, self._clock = per_second, clock
        self._second, self._taken = 0, 0

    def take(self) -> bool:
        """Whether there is one left."""
        if (second := int(self._clock())) != self._second:
            self._second, self._taken = second, 0
        self._taken += 1
        return self._taken <= self._per_second
