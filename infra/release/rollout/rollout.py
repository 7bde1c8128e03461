"""A release as idempotent steps: a second run continues where the ledger ends.

  begin → (Terraform) → publish → test → shift, look, … → promote → promoted
                                   ↓        ↓                ↓
                                 failed   roll back ←────────┘  → rolled back

A decision is written before the alias is moved, and the alias is moved only if it is not there yet.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass

from infra.release.aws.function import CallFailed
from infra.release.errors import Refused
from infra.release.rollout.baking import Alarms, Baked, bake
from infra.release.rollout.endings import Endings
from infra.release.rollout.observer import Observer
from infra.release.rollout.traffic import move, smoke_test, wanted_alias
from infra.release.settings import Step, StrategyName
from infra.release.state.journal import admit, place_of
from infra.release.state.ledger import Outcome


@dataclass(frozen=True)
class Wanted:
    """What is to be released."""

    digest: str
    strategy: StrategyName
    model: str | None = None  # version that it must serve
    why: str = ""
    again: bool = False  # although it was rolled back


class Machine:
    """Runs one release to its end."""

    def __init__(
        self,
        env: str,
        observer: Observer,
        alarms: Alarms,
        check: Callable[[], None],
        deploy: Callable[[], None],
    ) -> None:
        """`check` passes while this run holds the lease; `deploy` has Terraform put the image
        into the function, and may be repeated."""
        self._observer, self._alarms, self._check, self._deploy = observer, alarms, check, deploy
        self._function, self._journal = observer.function, observer.journal
        self._timeline = observer.timeline
        self._ends = Endings(env, observer, alarms, check)

    def run(self, wanted: Wanted) -> Outcome:
        """Begins a release, or goes on with the one that was begun.

        Raises:
            Refused: another image's release has not ended.
            LeaseLost: somebody took over.
            NotVerified: the alias is where it should be, and callers are answered wrongly.
        """
        self._begin(wanted)
        now = self._journal.progress
        if now.ending == "roll back":
            return self._ends.roll_back()
        if now.candidate is None:
            self._publish()
        if not now.is_tested and (failed := self._test(wanted)):
            return failed
        if (done := self._already()) is not None:
            return done
        if now.ending is None:
            baked = self._bake_all()
            if baked.next == "stop":
                return self._ends.stop(baked)
            if baked.next == "roll back" or now.strategy == "ab":
                self._ends.decide_roll_back(baked)
                return self._ends.roll_back()
            self._ends.decide_promotion(baked)
        return self._ends.promote()

    # ---- Steps ----

    def _begin(self, wanted: Wanted) -> None:
        admit(self._journal, wanted.digest, wanted.again)
        if self._journal.unfinished:
            if self._journal.go_on():
                now = self._journal.progress
                text = f"going on with release {now.release}: {place_of(now)}"
                self._timeline.event(text, "bold")
                return
            admit(self._journal, wanted.digest, wanted.again)  # the other run has just ended it
        alias = self._function.alias()
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
        raised = self._alarms.raised()
        if raised:
            self._timeline.event(f"raised already, and not counted: {', '.join(raised)}", "yellow")
        self._check()
        evidence = {"strategy": wanted.strategy, "stable_model": model, "raised_before": raised}
        self._journal.begin(wanted.digest, stable, alias.weights, evidence, wanted.why)
        self._timeline.event(
            f"release {self._journal.progress.release}: {wanted.strategy} from version "
            f"{alias.version} to {wanted.digest[:19]}…",
            "bold",
        )

    def _publish(self) -> None:
        now = self._journal.progress
        self._timeline.wait("Terraform applies")
        self._deploy()
        self._check()
        self._timeline.wait("Lambda publishes")
        version = self._function.publish(now.digest)
        self._journal.write("publish", self._ends.weights(), to_version=version)
        self._timeline.event(f"version {version} is {now.digest[:19]}…")

    def _test(self, wanted: Wanted) -> Outcome | None:
        now, golden = self._journal.progress, self._observer.golden
        candidate = str(now.candidate)
        image = golden.order(now.release)[-1] if golden and golden.images else None
        self._timeline.wait(f"asking version {candidate}")
        try:
            smoke = smoke_test(self._function, candidate, wanted.model, image)
        except Refused as exc:
            return self._ends.fail(str(exc))
        classes = sorted({*smoke.classes, *self._classes_of_stable()})
        evidence = {"smoke": asdict(smoke), "classes": classes}
        self._journal.write(
            "test", self._ends.weights(), model=smoke.model, verdict="passed", evidence=evidence
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

    def _already(self) -> Outcome | None:
        """The candidate is what is live: nothing to shift."""
        now = self._journal.progress
        if now.candidate != now.stable:
            return None
        before = any(
            record.decision.kind == "promoted" and record.decision.to_version == now.candidate
            for record in self._journal.life
        )
        return self._ends.already("unchanged" if before else "promoted")

    def _bake_all(self) -> Baked:
        baked = Baked("advance", "unjudged", "no step asks for evidence")
        steps = self._observer.settings.steps(self._journal.progress.strategy)
        for place, step in enumerate(steps):
            if place < self._journal.progress.step:
                continue
            self._timeline.plan(steps, place)
            self._shift(place, step)
            baked = bake(step, self._observer, self._alarms, self._check)
            if baked.next != "advance":
                break
        return baked

    def _shift(self, place: int, step: Step) -> None:
        now = self._journal.progress
        alias = wanted_alias(str(now.stable), str(now.candidate), step.weight)
        if place > now.step or now.is_stopped:
            is_first = now.step < 0
            lost = self._observer.baseline() if is_first else dict(now.lost)
            # Windows follow each other without a gap, but for the time that a person took.
            is_new = is_first or now.is_stopped
            begins = self._observer.clock.now() if is_new else now.seen_until_s
            self._check()
            evidence = {"from": begins, "lost": lost}
            self._journal.write("shift", alias.weights, step=place, evidence=evidence)
        move(self._function, alias, {str(now.stable), str(now.candidate)}, self._check)
        self._timeline.event(f"traffic: {alias}", "cyan")
        self._observer.notices.measure(place + 1, step.weight)
