"""One canary step: wait, watch the alarms, judge the evidence, decide how to go on."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Literal

from infra.release.rollout.observer import Observer
from infra.release.rollout.timeline import Timeline
from infra.release.settings import Step
from infra.release.verdict.engine import Verdict

Next = Literal["advance", "roll back", "stop"]


@dataclass(frozen=True)
class Baked:
    """How it goes on, and why."""

    next: Next
    verdict: str
    why: str


@dataclass(frozen=True)
class Alarms:
    """Alarms of the environment: those that page somebody undo a release, the others warn."""

    names: Collection[str]
    pages: Collection[str]
    states: Callable[[list[str]], dict[str, str]]
    _warned: set[str] = field(default_factory=set)

    def raised(self, but: Collection[str] = ()) -> list[str]:
        """Those that are raised now."""
        states = self.states([name for name in self.names if name not in but])
        return sorted(name for name, state in states.items() if state == "ALARM")

    def objection(self, timeline: Timeline, but: Collection[str]) -> Baked | None:
        """The way back if a paging alarm is raised; one that only warns is shown, once.

        Args:
            but: alarms that were raised when the release began.
        """
        raised = self.raised(but)
        for name in raised:
            if name not in self.pages and name not in self._warned:
                self._warned.add(name)
                timeline.event(f"raised, but only a warning: {name}", "yellow")
        pages = [name for name in raised if name in self.pages]
        return Baked("roll back", "alarm", f"alarm: {', '.join(pages)}") if pages else None


def bake(step: Step, observer: Observer, alarms: Alarms, check: Callable[[], None]) -> Baked:
    """Holds a step until it is clear how to go on.

    Args:
        check: raises when this run may not go on.
    """
    clock, settings, journal = observer.clock, observer.settings, observer.journal
    since = journal.progress.since_s
    until = since + step.bake_s
    while True:
        next_look = journal.progress.seen_until_s + settings.settle_s + step.look_s
        left = max(0.0, until - clock.now())
        observer.timeline.wait(
            f"{100 * step.weight:.4g} % for another {left:.0f} s" if left else "more evidence"
        )
        clock.sleep(max(0.0, min(settings.poll_s, next_look - clock.now())))
        check()
        if objection := alarms.objection(observer.timeline, journal.progress.raised_before):
            return objection
        if clock.now() < next_look:
            continue
        verdict = observer.look(step)
        check()
        if (baked := _decide(step, verdict, clock.now() - since, observer)) is not None:
            return baked


def _decide(step: Step, verdict: Verdict, elapsed_s: float, observer: Observer) -> Baked | None:
    settings = observer.settings
    why = "; ".join(verdict.reasons)
    if verdict.decision == "roll back":
        return Baked("roll back", "roll back", why)
    if elapsed_s < step.bake_s:
        return None
    if verdict.decision == "promote" or not step.proof:
        return Baked("advance", verdict.decision, why)
    if elapsed_s < step.bake_s + settings.most_hold_s:
        return None
    spent = f"too little evidence within {elapsed_s:.0f} s; needs {why}"
    return Baked("stop" if settings.on_hold == "stop" else "roll back", "hold", spent)
