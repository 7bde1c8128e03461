"""Which requests become traces: OpenTelemetry's samplers without its objects for each request."""

from dataclasses import dataclass

SAMPLERS = (
    "always_on",
    "always_off",
    "traceidratio",
    "parentbased_always_on",
    "parentbased_always_off",
    "parentbased_traceidratio",
)
_HALF = 16  # hexadecimal digits of a trace id that decide, the last ones


@dataclass(frozen=True)
class Sampler:
    """Takes `ratio` of the traces, the same ones as every other service with this ratio."""

    ratio: float = 0.0
    follows_parent: bool = True  # a caller's own decision counts, where there is one

    @classmethod
    def named(cls, name: str, ratio: float) -> "Sampler":
        """One of `SAMPLERS`; the ratio is for those that have one."""
        kind = name.removeprefix("parentbased_")
        fixed = {"always_on": 1.0, "always_off": 0.0}
        return cls(fixed.get(kind, ratio), follows_parent=kind != name)

    def takes(self, trace_id: str, has_parent: bool, parent_sampled: bool) -> bool:
        """Whether the trace of 32 hexadecimal digits is recorded.

        Source: opentelemetry.sdk.trace.sampling.TraceIdRatioBased, which compares the same digits.
        """
        if has_parent and self.follows_parent:
            return parent_sampled
        return int(trace_id[_HALF:], 16) < round(self.ratio * 2**64)
