"""How long a call may wait for a collector that does not answer."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from serve.aws_lambda.invocation import FlushingHandler


class World:
    """A collector that can be dead, and a clock that moves while somebody waits for it."""

    def __init__(self, budget_s: float = 0.5) -> None:
        self.now_s, self.dead, self.deadlines_s = 0.0, False, list[float]()
        self.handler = FlushingHandler(
            lambda event, context: event, self.flush, budget_s, self.clock
        )

    def clock(self) -> float:
        return self.now_s

    def flush(self, deadline_s: float) -> bool:
        self.deadlines_s.append(deadline_s)
        if self.dead:
            self.now_s += deadline_s
        return not self.dead

    def call(self, remaining_s: float = 30.0) -> Any:
        context = SimpleNamespace(get_remaining_time_in_millis=lambda: int(remaining_s * 1000))
        return self.handler("an event", context)


def test_each_call_is_flushed_in_its_budget() -> None:
    world = World()
    assert [world.call() for _ in range(3)] == ["an event"] * 3
    assert world.deadlines_s == [0.5] * 3


def test_the_end_of_the_invocation_is_no_time_for_telemetry() -> None:
    world = World()
    world.call(remaining_s=0.25)
    world.call(remaining_s=0.05)
    assert world.deadlines_s == [pytest.approx(0.15), 0.0]


def test_a_dead_collector_costs_few_calls_anything() -> None:
    world = World()
    world.dead = True
    for _ in range(10_000):  # a call each 0.1 s
        world.call()
        world.now_s += 0.1
    assert len(world.deadlines_s) == 10_000  # each has begun to send
    assert sum(1 for deadline_s in world.deadlines_s if deadline_s) <= 26
    assert sum(world.deadlines_s) <= 0.013 * world.now_s


def test_a_collector_that_is_back_is_waited_for_again() -> None:
    world = World()
    world.dead = True
    world.call()
    world.dead = False
    world.call()
    world.now_s += 60
    world.call()
    world.call()
    assert world.deadlines_s == [0.5, 0.0, 0.5, 0.5]


def test_after_a_reset_nothing_is_held_against_the_collector() -> None:
    world = World()
    world.dead = True
    world.call()
    world.handler.reset()
    world.call()
    assert world.deadlines_s == [0.5, 0.5]


def test_what_a_failing_call_left_is_sent_too() -> None:
    world = World()

    def fail(event: Any, context: Any) -> Any:
        raise RuntimeError("a bug")

    handler = FlushingHandler(fail, world.flush, 0.5, world.clock)
    with pytest.raises(RuntimeError):
        handler("an event", SimpleNamespace(get_remaining_time_in_millis=lambda: 1000))
    assert world.deadlines_s == [0.5]
