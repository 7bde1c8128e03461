"""One look at a release: new evidence, the verdict on all of it, and the ledger record."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from msgspec.structs import replace

from common.golden import GoldenImage, GoldenSet
from infra.release.aws.clients import Clock
from infra.release.aws.function import LambdaFunction
from infra.release.errors import LeaseLost, ReleaseError
from infra.release.evidence.collector import Collector
from infra.release.evidence.replay import Replayed, replay
from infra.release.rollout.notices import Notices
from infra.release.rollout.timeline import Timeline
from infra.release.rollout.traffic import wanted_alias
from infra.release.settings import GOLDEN_CHECKS, Settings, Step
from infra.release.state.journal import Journal
from infra.release.verdict.engine import Verdict, judge
from infra.release.verdict.evidence import Evidence, Window
from infra.release.verdict.policy import Policy


@dataclass(frozen=True)
class Observer:
    """What looks at a release need."""

    settings: Settings
    function: LambdaFunction
    collector: Collector
    golden: GoldenSet | None
    notices: Notices
    journal: Journal
    timeline: Timeline
    clock: Clock

    def baseline(self) -> dict[str, int]:
        """Failed calls that were counted before the candidate gets traffic."""
        now = self.journal.progress
        versions = [version for version in (now.stable, now.candidate) if version]
        return self.collector.lost(versions, now.began_s, self.clock.now())

    def look(self, step: Step) -> Verdict:
        """Collects, replays, judges, records."""
        now = self.journal.progress
        stable, candidate = str(now.stable), str(now.candidate)
        self.timeline.wait("replaying golden images")
        images = self._next_images()
        replayed = self._replay(stable, candidate, images)
        self.timeline.wait("reading the log")
        until = max(now.seen_until_s, self.clock.now() - self.settings.settle_s)
        seen = self.collector.collect(
            stable, candidate, (now.seen_until_s, until), now.began_s, now.lost, now.classes
        )
        window = Window(seen.stable, seen.candidate, replayed.replay)
        evidence = Evidence(
            stable, candidate, self.collector.buckets.latency_s, (*now.windows, window)
        )
        verdict = judge(evidence, self._policy(step))
        self.timeline.event(
            f"look {len(evidence.windows)}: {seen.candidate.requests:,} requests to the candidate, "
            f"{seen.stable.requests:,} to stable, {replayed.replay.images:,} golden images"
        )
        self.timeline.verdict(verdict)
        evidence_of_look = {
            "window": window,
            "until": until,
            "golden_used": now.golden_used + replayed.used,
            "lost": dict(seen.lost),
            "checks": verdict.checks,
        }
        self._record(step, verdict, evidence_of_look)
        self.notices.measure(now.step + 1, step.weight, verdict.decision, self._accuracies())
        return verdict

    def _record(self, step: Step, verdict: Verdict, evidence: dict[str, Any]) -> None:
        now = self.journal.progress
        weights = wanted_alias(str(now.stable), str(now.candidate), step.weight).weights
        why = "; ".join(verdict.reasons)
        try:
            self.journal.write(
                "look", weights, step=now.step, verdict=verdict.decision, why=why, evidence=evidence
            )
        except LeaseLost:
            raise
        except ReleaseError as exc:
            if verdict.decision != "roll back":  # which waits for no ledger
                raise
            self.timeline.event(f"the ledger does not answer: {exc}", "yellow")

    def report(self) -> dict[str, Any]:
        """Both versions side by side, over all windows."""
        now = self.journal.progress
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
            "latency_edges_s": self.collector.buckets.latency_s,
            "latency": {v: _sums([arm.latency for arm in found]) for v, found in arms.items()},
            "golden": self._accuracies(),
            "golden_images": sum(window.golden.images for window in now.windows),
        }

    def _policy(self, step: Step) -> Policy:
        if step.weight > 0:
            return self.settings.policy
        return replace(self.settings.policy, required=GOLDEN_CHECKS)

    def _next_images(self) -> Sequence[GoldenImage]:
        if self.golden is None:
            return ()
        now = self.journal.progress
        order = self.golden.order(now.release)
        return order[now.golden_used : now.golden_used + self.settings.golden.per_look]

    def _replay(self, stable: str, candidate: str, images: Sequence[GoldenImage]) -> Replayed:
        options = self.settings.golden
        return replay(
            self.function, stable, candidate, images, options.concurrency, options.budget_s
        )

    def _accuracies(self) -> dict[str, float]:
        """Accuracy of both versions on the golden images so far."""
        now = self.journal.progress
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
