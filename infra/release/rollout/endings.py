"""The ends of a release: promoted, rolled back, stopped, or failed before any traffic."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict

from infra.release.aws.function import Alias
from infra.release.errors import LeaseLost, NotVerified, ReleaseError
from infra.release.rollout.baking import Alarms, Baked
from infra.release.rollout.observer import Observer
from infra.release.rollout.traffic import move, verify
from infra.release.state.ledger import Decision, Kind, Outcome
from infra.release.state.progress import Progress

_ENDED = "ended"  # verdict of an A/B split that went as planned


class Endings:
    """The last steps of one release; each may be repeated."""

    def __init__(
        self, env: str, observer: Observer, alarms: Alarms, check: Callable[[], None]
    ) -> None:
        self._env, self._alarms, self._check = env, alarms, check
        self._observer = observer
        self._function, self._journal = observer.function, observer.journal
        self._timeline, self._notices = observer.timeline, observer.notices
        self._settings, self._clock = observer.settings, observer.clock

    def decide_promotion(self, baked: Baked) -> None:
        """Records the decision to promote."""
        now = self._journal.progress
        self._check()
        self._journal.write(
            "promote",
            {str(now.candidate): 1.0},
            step=now.step,
            verdict=baked.verdict,
            why=baked.why,
        )

    def promote(self) -> Outcome:
        """Sends all traffic to the candidate, unless it answers wrongly or a paging alarm goes
        off."""
        now = self._journal.progress
        stable, candidate = str(now.stable), str(now.candidate)
        steps = self._settings.steps(now.strategy)
        self._timeline.plan(steps, len(steps))
        move(self._function, Alias(candidate), {stable, candidate}, self._check)
        self._timeline.event(f"traffic: {Alias(candidate)}", "cyan")
        self._notices.measure(len(steps) + 1, 1.0, "promote")
        problem = self._watch(candidate, now)
        if problem is not None:
            self.decide_roll_back(problem)
            return self.roll_back()
        self._notices.measure(0, 0.0)
        decision = self._journal.decision(
            "promoted", {candidate: 1.0}, verdict=now.verdict, why=now.why
        )
        self._commit(decision)
        return self._end(decision, f"version {candidate} is live")

    def _watch(self, candidate: str, now: Progress) -> Baked | None:
        """What speaks against the promotion after all."""
        clock = self._clock
        try:
            verify(self._function, candidate, now.model, self._settings.rollback_s, clock)
        except NotVerified as exc:
            return Baked("roll back", "not verified", str(exc))
        until = clock.now() + self._settings.watch_s
        while True:
            if objection := self._alarms.objection(self._timeline, now.raised_before):
                return objection
            left = until - clock.now()
            if left <= 0:
                return None
            self._timeline.wait(f"watching the alarms for another {left:.0f} s")
            clock.sleep(min(self._settings.poll_s, left))
            self._check()

    def decide_roll_back(self, baked: Baked) -> None:
        """Writes it; a ledger that does not answer must not keep callers with a bad version."""
        now = self._journal.progress
        verdict = _ENDED if baked.next == "advance" else baked.verdict
        self._timeline.event(
            "the split ends" if verdict == _ENDED else f"rolling back: {baked.why}",
            "bold" if verdict == _ENDED else "bold red",
        )
        try:
            self._journal.write(
                "roll back", {str(now.stable): 1.0}, step=now.step, verdict=verdict, why=baked.why
            )
        except LeaseLost:
            raise
        except ReleaseError as exc:
            self._timeline.event(f"the ledger does not answer, going on without: {exc}", "yellow")

    def roll_back(self) -> Outcome:
        """Sends all traffic to stable by one call, whatever the alias was.

        Raises:
            NotVerified: callers are not answered by stable in time.
        """
        now, clock = self._journal.progress, self._clock
        stable, start = str(now.stable), clock.now()
        self._function.point(stable, {})
        self._timeline.event(f"traffic: {Alias(stable)}", "cyan")
        verify(self._function, stable, now.stable_model, self._settings.rollback_s, clock)
        took = clock.now() - start
        self._notices.measure(0, 0.0, None if now.verdict == _ENDED else "roll back")
        kind: Kind = "reported" if now.verdict == _ENDED else "rolled back"
        report = self._observer.report() if kind == "reported" else {}
        text = f"version {stable} answers again, after {took:.1f} s"
        decision = self._journal.decision(
            kind, {stable: 1.0}, verdict=now.verdict, why=now.why, evidence=report
        )
        try:
            self._commit(decision)
        except LeaseLost:
            raise
        except ReleaseError as exc:
            text += (
                f". THE LEDGER DOES NOT KNOW ({exc}): once S3 answers, record it by "
                "`bazel run //infra:rollback`; deploying again would go on with the release"
            )
        return self._end(decision, text)

    def stop(self, baked: Baked) -> Outcome:
        """Leaves the split as it is, for a person to decide."""
        now = self._journal.progress
        weights = self._function.alias().weights
        decision = self._journal.write("stop", weights, step=now.step, why=baked.why)
        self._notices.tell(self._env, decision)
        text = f"stopped at step {now.step + 1}, the alias stays as it is: deploy again to go on"
        return self._end(decision, f"{text}, or roll back. {baked.why}")

    def fail(self, why: str) -> Outcome:
        """Ends it before any traffic was moved."""
        now = self._journal.progress
        decision = self._journal.write("failed", self.weights(), verdict="failed", why=why)
        self._notices.tell(self._env, decision)
        return self._end(decision, f"no traffic was moved, version {now.stable} stays live: {why}")

    def _commit(self, decision: Decision) -> None:
        """The record that ends a release. People are told before, rather twice than never."""
        if decision.verdict != _ENDED:
            self._notices.tell(self._env, decision)
        self._journal.append(decision)

    def already(self, kind: Kind) -> Outcome:
        """The version is live, and nothing was to be moved."""
        version = str(self._journal.progress.candidate)
        why = "it is live already" if kind == "unchanged" else "it is the first"
        decision = self._journal.write(kind, {version: 1.0}, why=why)
        if kind == "promoted":
            self._notices.tell(self._env, decision)
        return self._end(decision, f"version {version} is live: {why}")

    def weights(self) -> dict[str, float]:
        """The alias's weights while the candidate has no traffic."""
        return {str(self._journal.progress.stable): 1.0}

    def _end(self, decision: Decision, text: str) -> Outcome:
        return Outcome(decision.kind, text, asdict(decision))
