"""The sampler of serve/telemetry/export.py decides as OpenTelemetry's own samplers do."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.trace import sampling as theirs
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, set_span_in_context

from serve.telemetry.export import SAMPLERS, Sampler
from serve.telemetry.recorder import ErrorBudget

trace_ids = st.integers(1, 2**128 - 1)
ratios = st.one_of(st.floats(0, 1), st.sampled_from([0.0, 1e-9, 0.01, 0.5, 1.0]))


@pytest.mark.parametrize("name", SAMPLERS)
@given(trace_id=trace_ids, ratio=ratios, parent=st.sampled_from([None, False, True]))
def test_it_takes_the_traces_that_the_sdk_takes(
    name: str, trace_id: int, ratio: float, parent: bool | None
) -> None:
    ours = Sampler.named(name, ratio).takes(f"{trace_id:032x}", parent is not None, parent is True)
    context = None
    if parent is not None:
        span = SpanContext(trace_id, 1, True, TraceFlags(int(parent)))
        context = set_span_in_context(NonRecordingSpan(span))
    decision = _theirs(name, ratio).should_sample(context, trace_id, "name").decision
    assert ours == decision.is_sampled()  # type: ignore[no-untyped-call]


def _theirs(name: str, ratio: float) -> theirs.Sampler:
    root = {
        "always_on": theirs.ALWAYS_ON,
        "always_off": theirs.ALWAYS_OFF,
        "traceidratio": theirs.TraceIdRatioBased(ratio),
    }[name.removeprefix("parentbased_")]
    return theirs.ParentBased(root) if name.startswith("parentbased_") else root


def test_a_flood_of_errors_is_not_traced_whole() -> None:
    now = [0.0]
    budget = ErrorBudget(per_second=3, clock=lambda: now[0])
    assert [budget.take() for _ in range(5)] == [True, True, True, False, False]
    now[0] = 1.0
    assert budget.take()
