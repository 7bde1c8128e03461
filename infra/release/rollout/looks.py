"""One step of a rollout: hold the split, watch alarms, judge evidence, decide what follows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from common.golden import GoldenImage, GoldenSet
from infra.release.aws.function import CallFailed
from infra.release.errors import LeaseLost, ReleaseError
from infra.release.evidence.accuracy import NONE, LabelReader, replay, since
from infra.release.rollout.context import ReleaseContext
from infra.release.rollout.traffic import wanted_alias
from infra.release.settings import Step
from infra.release.state.journal import Journal
from infra.release.verdict.engine import Verdict, judge
from infra.release.verdict.evidence import Evidence, Labelled, Window

_BY_HAND = "alias moved by hand"  # a verdict
_REREAD_S = 1.0


@dataclass(frozen=True)
class StepEnd:
    """What follows a step, and why."""

    action: Literal["advance", "roll back", "stop"]
    verdict: str
    why: str


class Looks:
    """The looks at one release: each collects new evidence, judges all of it and records that."""

    def __init__(
        self,
        context: ReleaseContext,
        journal: Journal,
        golden: GoldenSet | None,
        *,
        ignore_drift: bool = False,
    ) -> None:
        self._context, self._journal, self._golden = context, journal, golden
        self._ignore_drift = ignore_drift
        self._warned: set[str] = set()
        self._is_drifting = False
        self._classes: dict[str, tuple[str, ...]] = {}  # by model

    def hold(self, step: Step) -> StepEnd:
        """Holds a step until it is clear what follows.

        Raises:
            LeaseLost: another run took over.
        """
        context, journal = self._context, self._journal
        clock, settings = context.clock, context.settings
        since = journal.progress.since_s
        until = since + step.bake_s
        while True:
            next_look = journal.progress.seen_until_s + settings.settle_s + step.look_s
            left = max(0.0, until - clock.now())
            context.timeline.wait(
                f"{100 * step.weight:.4g} % for another {left:.0f} s" if left else "more evidence"
            )
            clock.sleep(max(0.0, min(settings.poll_s, next_look - clock.now())))
            context.lease.check()
            if objection := self.alarm_objection() or self.moved_by_hand([self._split(step)]):
                return objection
            if clock.now() < next_look:
                continue
            verdict = self._look(step)
            context.lease.check()
            if (end := self._end(step, verdict, clock.now() - since)) is not None:
                return end

    def alarm_objection(self) -> StepEnd | None:
        """A rollback if a paging alarm is raised since the release began; one that only warns, and
        that of drift, which is about callers' images, is shown, once."""
        outputs = self._context.outputs
        raised = self._context.raised_alarms(but=self._journal.progress.raised_before)
        self._is_drifting = outputs.drift_alarm in raised and not self._ignore_drift
        causes = {*outputs.page_alarm_names} - {outputs.drift_alarm}
        paging = [name for name in raised if name in causes]
        for name in raised:
            if name not in causes and name not in self._warned:
                self._warned.add(name)
                self._context.timeline.event(f"raised, and undoes nothing: {name}", "yellow")
        return StepEnd("roll back", "alarm", f"alarm: {', '.join(paging)}") if paging else None

    def moved_by_hand(self, expected: Sequence[Mapping[str, float]]) -> StepEnd | None:
        """A rollback if somebody has sent all traffic to stable, past the release manager; a stop
        if they have moved the alias elsewhere.

        Args:
            expected: weights of the alias, by what this release has decided.
        """
        function, now = self._context.function, self._journal.progress
        for pause_s in (_REREAD_S, 0.0):  # what has just been moved may read back as before
            found = function.alias()
            if found.weights in expected:
                return None
            self._context.clock.sleep(pause_s)
        if found.weights == {str(now.stable): 1.0}:
            return StepEnd("roll back", _BY_HAND, "somebody sent all traffic back to it by hand")
        return StepEnd("stop", _BY_HAND, f"somebody moved the alias by hand: {found}")

    def _split(self, step: Step) -> dict[str, float]:
        now = self._journal.progress
        return wanted_alias(str(now.stable), str(now.candidate), step.weight).weights

    def failed_before(self) -> dict[str, int]:
        """Failed calls of each version that were counted before the candidate gets traffic."""
        now = self._journal.progress
        versions = [version for version in (now.stable, now.candidate) if version]
        return self._context.collector.lost(versions, now.began_s, self._context.clock.now())

    def report(self) -> dict[str, Any]:
        """Both versions side by side, over all windows."""
        now = self._journal.progress
        arms = {
            str(now.stable): [window.stable for window in now.windows],
            str(now.candidate): [window.candidate for window in now.windows],
        }
        return {
            "windows": len(now.windows),
            "requests": {v: sum(arm.requests for arm in found) for v, found in arms.items()},
            "errors": {v: sum(arm.errors for arm in found) for v, found in arms.items()},
            "classes": {
                v: dict(zip(now.classes, _sums([arm.classes for arm in found]), strict=False))
                for v, found in arms.items()
            },
            "latency_edges_s": self._context.collector.buckets.latency_s,
            "latency": {v: _sums([arm.latency for arm in found]) for v, found in arms.items()},
            "golden": self._accuracies(),
            "golden_images": sum(window.golden.images for window in now.windows),
        }

    def _end(self, step: Step, verdict: Verdict, elapsed_s: float) -> StepEnd | None:
        settings = self._context.settings
        why = "; ".join(verdict.reasons)
        if verdict.decision == "roll back":
            return StepEnd("roll back", "roll back", why)
        if elapsed_s < step.bake_s:
            return None
        if not step.proof or (verdict.decision == "promote" and not self._is_drifting):
            return StepEnd("advance", verdict.decision, why)
        left = step.bake_s + settings.most_hold_s - elapsed_s
        if left > 0:
            self._context.timeline.event(f"holding for up to {left:.0f} s more", "yellow")
            return None
        if verdict.decision == "promote":  # nothing is wrong with the version: a person decides
            drifted = "callers' images have drifted: --ignore-drift promotes it nevertheless"
            return StepEnd("stop", "drift", f"{drifted}; {why}")
        spent = f"too little evidence within {elapsed_s:.0f} s; needs {why}"
        return StepEnd(settings.on_hold, "hold", spent)

    def _look(self, step: Step) -> Verdict:
        now, context = self._journal.progress, self._context
        stable, candidate = str(now.stable), str(now.candidate)
        settings, collector, timeline = context.settings, context.collector, context.timeline
        timeline.wait("replaying golden images")
        golden = settings.golden
        replayed = replay(
            context.function,
            stable,
            candidate,
            self._next_images(),
            golden.concurrency,
            golden.budget_s,
            collector.buckets,
        )
        timeline.wait("reading the log")
        until = max(now.seen_until_s, context.clock.now() - settings.settle_s)
        seen = collector.collect(
            stable,
            candidate,
            (now.seen_until_s, until),
            now.began_s,
            now.lost,
            now.classes,
            is_first=not now.windows,
        )
        window = Window(
            seen.stable,
            seen.candidate,
            replayed.replay,
            replayed.stable,
            replayed.candidate,
            *self._labelled(until),
        )
        windows = (*now.windows, window)
        policy = settings.policy(is_same_model=now.model == now.stable_model)
        edges, labelled = collector.buckets.latency_s, self._are_labels_looked_for
        verdict = judge(Evidence(stable, candidate, edges, windows, labelled), policy)
        timeline.event(
            f"look {len(windows)}: {seen.candidate.requests:,} requests to the candidate, "
            f"{seen.stable.requests:,} to stable, {replayed.replay.images:,} golden images"
        )
        timeline.verdict(verdict)
        evidence = {
            "window": window,
            "until": until,
            "golden_used": now.golden_used + replayed.used,
            "lost": dict(seen.lost),
            "checks": verdict.checks,
        }
        self._record(step, verdict, evidence)
        context.notices.measure(now.step + 1, step.weight, verdict.decision, self._accuracies())
        return verdict

    @property
    def _are_labels_looked_for(self) -> bool:
        """Whether labels are evidence: not for a candidate with stable's own model."""
        now = self._journal.progress
        models = {now.model, now.stable_model} - {None}
        return bool(self._context.settings.labels.captures) and len(models) == 2

    def _labelled(self, until_s: float) -> tuple[Labelled, Labelled]:
        """Labels of stable's and the candidate's answers since the last look."""
        if not self._are_labels_looked_for:
            return NONE, NONE
        now, settings = self._journal.progress, self._context.settings.labels
        arms = ((str(now.stable_model), str(now.stable)), (str(now.model), str(now.candidate)))
        self._context.timeline.wait("reading labelled answers")
        reader = LabelReader(settings.captures, settings.least_chance)
        try:
            for model, version in arms:
                if model not in self._classes:
                    info = self._context.function.model_info(version)
                    self._classes[model] = tuple(info["classes"])
            totals = reader.totals(self._classes, now.began_s, until_s)
        except (CallFailed, ReleaseError) as exc:  # what is lost now is counted at the next look
            self._context.timeline.event(f"no labels at this look: {exc}", "yellow")
            return NONE, NONE
        return (
            since(totals[arms[0][0]], [window.labelled_stable for window in now.windows]),
            since(totals[arms[1][0]], [window.labelled_candidate for window in now.windows]),
        )

    def _record(self, step: Step, verdict: Verdict, evidence: dict[str, Any]) -> None:
        now = self._journal.progress
        why = "; ".join(verdict.reasons)
        try:
            self._journal.write(
                "look",
                self._split(step),
                step=now.step,
                verdict=verdict.decision,
                why=why,
                evidence=evidence,
            )
        except LeaseLost:
            raise
        except ReleaseError as exc:
            if verdict.decision != "roll back":  # which waits for no ledger
                raise
            self._context.timeline.event(f"the ledger does not answer: {exc}", "yellow")

    def _next_images(self) -> Sequence[GoldenImage]:
        if self._golden is None:
            return ()
        now = self._journal.progress
        order = self._golden.order(now.release)
        return order[now.golden_used : now.golden_used + self._context.settings.golden.per_look]

    def _accuracies(self) -> dict[str, float]:
        """Accuracy of both versions on the golden images so far."""
        now = self._journal.progress
        replays = [window.golden for window in now.windows]
        images = sum(replay.images for replay in replays)
        if not images:
            return {}
        both = sum(replay.both_right for replay in replays)
        stable = both + sum(replay.only_stable_right for replay in replays)
        candidate = both + sum(replay.only_candidate_right for replay in replays)
        return {str(now.stable): stable / images, str(now.candidate): candidate / images}


def _sums(rows: Sequence[Sequence[int]]) -> list[int]:
    return [sum(column) for column in zip(*rows, strict=True)]
