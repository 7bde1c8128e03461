"""A release as idempotent steps: a second run continues where the ledger ends.

  begin → (Terraform) → publish → test → shift, look, … → promote → promoted
                                   ↓        ↓                ↓
                                 failed   roll back ←────────┘  → rolled back

A decision is written before the alias is moved, and the alias is moved only if it is not there yet.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass

from common.golden import GoldenSet
from infra.release.aws.function import Alias, CallFailed
from infra.release.errors import LeaseLost, NotVerified, Refused, ReleaseError
from infra.release.rollout.context import ReleaseContext
from infra.release.rollout.looks import Looks, StepEnd
from infra.release.rollout.preflight import Image
from infra.release.rollout.traffic import move, smoke_test, verify, wanted_alias
from infra.release.settings import Step, StrategyName
from infra.release.state.journal import admit, place_of
from infra.release.state.ledger import Decision, Kind, Outcome
from infra.terraform.program import TerraformError

_ENDED = "ended"  # verdict of an A/B split that went as planned


@dataclass(frozen=True)
class Wanted:
    """The release that was asked for."""

    image: Image
    strategy: StrategyName
    model: str | None = None  # version that it must serve
    why: str = ""
    again: bool = False  # although it was rolled back
    ignore_drift: bool = False  # promoted although callers' images have drifted


class Rollout:
    """Runs one release to its end; the caller holds the lease."""

    def __init__(
        self,
        context: ReleaseContext,
        wanted: Wanted,
        golden: GoldenSet | None,
        apply: Callable[[str], object] | None,
    ) -> None:
        """Reads the ledger.

        Args:
            apply: has Terraform put the image of a URI into the function, and may be repeated;
                None where it is there already.
        """
        self._context, self._wanted, self._golden, self._apply = context, wanted, golden, apply
        self._journal = context.journal()
        self._looks = Looks(context, self._journal, golden, ignore_drift=wanted.ignore_drift)
        self._function, self._timeline = context.function, context.timeline
        self._notices, self._check = context.notices, context.lease.check

    def run(self) -> Outcome:
        """Begins a release, or resumes the one that was begun.

        Raises:
            Refused: another image's release has not ended.
            LeaseLost: somebody took over.
            NotVerified: the alias is where it should be, and callers are answered wrongly.
        """
        self._begin_or_go_on()
        now = self._journal.progress
        if now.ending == "roll back":
            return self._roll_back()
        if now.candidate is None and (failed := self._publish()):
            return failed
        if not now.is_tested and (failed := self._test()):
            return failed
        if (done := self._already_live()) is not None:
            return done
        if now.ending is None:
            end = self._take_steps()
            if end.action == "stop":
                return self._stop(end)
            if end.action == "roll back" or now.strategy == "ab":
                self._decide_roll_back(end)
                return self._roll_back()
            self._decide_promotion(end)
        return self._promote()

    # ---- Before any traffic ----

    def _begin_or_go_on(self) -> None:
        while True:
            admit(self._journal, self._wanted.image.digest, self._wanted.again)
            if not self._journal.unfinished:
                return self._begin()
            if self._journal.go_on():
                now = self._journal.progress
                text = f"going on with release {now.release}: {place_of(now)}"
                return self._timeline.event(text, "bold")
            # The other run has just ended it.

    def _begin(self) -> None:
        wanted, alias = self._wanted, self._function.alias()
        if alias.others:
            raise Refused(
                f"the alias is split ({alias}), and no release is running: somebody moved it by "
                "hand. `bazel run //infra:rollback -- --to VERSION` makes it one version's"
            )
        stable = alias.version, self._function.digest(alias.version)
        try:
            model = self._function.model_info(alias.version).get("version")
        except CallFailed as exc:
            model = None
            self._timeline.event(f"stable version {alias.version} does not answer: {exc}", "yellow")
        raised = self._context.raised_alarms()
        if raised:
            self._timeline.event(f"raised already, and not counted: {', '.join(raised)}", "yellow")
        self._check()
        evidence = {"strategy": wanted.strategy, "stable_model": model, "raised_before": raised}
        self._journal.begin(wanted.image.digest, stable, alias.weights, evidence, wanted.why)
        self._timeline.event(
            f"release {self._journal.progress.release}: {wanted.strategy} from version "
            f"{alias.version} to {wanted.image.digest[:19]}…",
            "bold",
        )

    def _publish(self) -> Outcome | None:
        now = self._journal.progress
        if self._apply:
            self._timeline.wait("Terraform applies")
            try:
                self._apply(self._wanted.image.uri)
            except TerraformError as exc:  # its state has what was done: the next apply goes on
                return self._fail(str(exc))
        self._check()
        self._timeline.wait("Lambda publishes")
        version = self._function.publish(now.digest)
        self._journal.write("publish", self._all_to_stable(), to_version=version)
        self._timeline.event(f"version {version} is {now.digest[:19]}…")
        return None

    def _test(self) -> Outcome | None:
        now = self._journal.progress
        candidate = str(now.candidate)
        self._timeline.wait(f"asking version {candidate}")
        try:
            smoke = smoke_test(
                self._function, candidate, self._wanted.model, self._golden, now.release
            )
        except Refused as exc:
            return self._fail(str(exc))
        classes = sorted({*smoke.classes, *self._classes_of_stable()})
        evidence = {"smoke": asdict(smoke), "classes": classes}
        self._journal.write(
            "test", self._all_to_stable(), model=smoke.model, verdict="passed", evidence=evidence
        )
        self._timeline.event(
            f"smoke test passed: model {smoke.model[:12]}, first answer after {smoke.seconds:.2f} s"
        )
        return None

    def _classes_of_stable(self) -> tuple[str, ...]:
        try:
            return tuple(self._function.model_info(str(self._journal.progress.stable))["classes"])
        except (CallFailed, KeyError):
            return ()

    def _already_live(self) -> Outcome | None:
        """The end if the candidate is what is live: there is nothing to shift."""
        now = self._journal.progress
        if now.candidate != now.stable:
            return None
        before = any(
            record.decision.kind == "promoted" and record.decision.to_version == now.candidate
            for record in self._journal.life
        )
        why = "it is live already" if before else "it is the first"
        decision = self._journal.write(
            "unchanged" if before else "promoted", self._all_to_stable(), why=why
        )
        if not before:
            self._tell(decision)
        return _outcome(decision, f"version {now.candidate} is live: {why}")

    def _fail(self, why: str) -> Outcome:
        stable = self._journal.progress.stable
        decision = self._journal.write("failed", self._all_to_stable(), verdict="failed", why=why)
        self._tell(decision)
        return _outcome(decision, f"no traffic was moved, version {stable} stays live: {why}")

    # ---- Steps ----

    def _take_steps(self) -> StepEnd:
        end = StepEnd("advance", "unjudged", "no step asks for evidence")
        steps = self._context.settings.steps(self._journal.progress.strategy)
        for place, step in enumerate(steps):
            if place < self._journal.progress.step:
                continue
            self._timeline.plan(steps, place)
            if objection := self._looks.moved_by_hand(self._journal.expected_weights):
                return objection
            self._shift(place, step)
            end = self._looks.hold(step)
            if end.action != "advance":
                break
        return end

    def _shift(self, place: int, step: Step) -> None:
        now = self._journal.progress
        alias = wanted_alias(str(now.stable), str(now.candidate), step.weight)
        if place > now.step or now.is_stopped:
            is_first = now.step < 0
            lost = self._looks.failed_before() if is_first else dict(now.lost)
            # Windows follow each other without a gap, but for the time that a person took.
            is_new = is_first or now.is_stopped
            begins = self._context.clock.now() if is_new else now.seen_until_s
            self._check()
            evidence = {"from": begins, "lost": lost}
            self._journal.write("shift", alias.weights, step=place, evidence=evidence)
        self._move(alias)
        self._notices.measure(place + 1, step.weight)

    def _move(self, alias: Alias) -> None:
        now = self._journal.progress
        move(self._function, alias, {str(now.stable), str(now.candidate)}, self._check)
        self._timeline.event(f"traffic: {alias}", "cyan")

    def _stop(self, end: StepEnd) -> Outcome:
        """Leaves the split as it is, for a person to decide."""
        now = self._journal.progress
        weights = self._function.alias().weights
        decision = self._journal.write("stop", weights, step=now.step, why=end.why)
        self._tell(decision)
        text = f"stopped at step {now.step + 1}, the alias stays as it is: deploy again to go on"
        return _outcome(decision, f"{text}, or roll back. {end.why}")

    # ---- Promotion ----

    def _decide_promotion(self, end: StepEnd) -> None:
        now = self._journal.progress
        self._check()
        weights = {str(now.candidate): 1.0}
        self._journal.write("promote", weights, step=now.step, verdict=end.verdict, why=end.why)

    def _promote(self) -> Outcome:
        """Sends all traffic to the candidate; a wrong answer or a paging alarm undoes it."""
        now = self._journal.progress
        candidate = str(now.candidate)
        steps = self._context.settings.steps(now.strategy)
        self._timeline.plan(steps, len(steps))
        problem = self._looks.moved_by_hand(self._journal.expected_weights)
        if problem is None:
            self._move(Alias(candidate))
            self._notices.measure(len(steps) + 1, 1.0, "promote")
            problem = self._watch(candidate, now.model)
        if problem and problem.action == "stop":
            raise ReleaseError(
                f"{problem.why}, and it stays so: `bazel run //infra:rollback -- --to VERSION` "
                "moves it and ends the release"
            )
        if problem:
            self._decide_roll_back(problem)
            return self._roll_back()
        self._notices.measure(0, 0.0)
        decision = self._journal.decision(
            "promoted", {candidate: 1.0}, verdict=now.verdict, why=now.why
        )
        self._commit(decision)
        return _outcome(decision, f"version {candidate} is live")

    def _watch(self, candidate: str, model: str | None) -> StepEnd | None:
        """An objection to the promotion, if one arises while it is watched."""
        clock, settings = self._context.clock, self._context.settings
        try:
            verify(self._function, candidate, model, settings.rollback_s, clock)
        except NotVerified as exc:
            return StepEnd("roll back", "not verified", str(exc))
        until = clock.now() + settings.watch_s
        while True:
            alias = Alias(candidate)
            objection = self._looks.alarm_objection() or self._looks.moved_by_hand([alias.weights])
            if objection:
                return objection
            left = until - clock.now()
            if left <= 0:
                return None
            self._timeline.wait(f"watching the alarms for another {left:.0f} s")
            clock.sleep(min(settings.poll_s, left))
            self._check()

    # ---- Rollback ----

    def _decide_roll_back(self, end: StepEnd) -> None:
        """Records the decision; an unavailable ledger must not keep callers on a bad version."""
        now, weights = self._journal.progress, self._all_to_stable()
        is_planned = end.action == "advance"
        self._timeline.event(
            "the split ends" if is_planned else f"rolling back: {end.why}",
            "bold" if is_planned else "bold red",
        )
        verdict = _ENDED if is_planned else end.verdict
        try:
            self._journal.write("roll back", weights, step=now.step, verdict=verdict, why=end.why)
        except LeaseLost:
            raise
        except ReleaseError as exc:
            self._timeline.event(f"the ledger does not answer, going on without: {exc}", "yellow")

    def _roll_back(self) -> Outcome:
        """Sends all traffic to stable by one call, whatever the alias was.

        Raises:
            NotVerified: callers are not answered by stable in time.
        """
        now, clock = self._journal.progress, self._context.clock
        stable, start = str(now.stable), clock.now()
        self._function.point(stable, {})
        self._timeline.event(f"traffic: {Alias(stable)}", "cyan")
        within_s = self._context.settings.rollback_s
        verify(self._function, stable, now.stable_model, within_s, clock)
        took = clock.now() - start
        is_planned = now.verdict == _ENDED
        self._notices.measure(0, 0.0, None if is_planned else "roll back")
        kind: Kind = "reported" if is_planned else "rolled back"
        text = f"version {stable} answers again, after {took:.1f} s"
        decision = self._journal.decision(
            kind,
            {stable: 1.0},
            verdict=now.verdict,
            why=now.why,
            evidence=self._looks.report() if is_planned else {},
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
        return _outcome(decision, text)

    def _commit(self, decision: Decision) -> None:
        """Writes the record that ends a release, after notifying: twice is better than never."""
        if decision.verdict != _ENDED:
            self._tell(decision)
        self._journal.append(decision)

    def _tell(self, decision: Decision) -> None:
        self._notices.tell(self._context.env, decision)

    def _all_to_stable(self) -> dict[str, float]:
        return {str(self._journal.progress.stable): 1.0}


def _outcome(decision: Decision, text: str) -> Outcome:
    return Outcome(decision.kind, text, asdict(decision))
