"""The twin's second story: from answers back to a better model.

Good traffic; the camera changes; drift is raised and the expected accuracy falls; callers tell the
truth about answers; the next model is trained, gated, released beside the old one with live labels
as evidence, and promoted; the estimate recovers. Then the same with wrong labels, which must not
get a worse model promoted. It runs the commands that a user types, and services as processes.
"""

from __future__ import annotations

import hashlib
import json
import random
import secrets
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from common.captures import Captures, Label
from common.stores import open_store
from infra.release.verdict.engine import Verdict
from infra.release.verdict.evidence import Labelled
from infra.twin.loop.canary import Callers, Canary, LabelledResponse, Shot, read_stream
from infra.twin.loop.programs import Alarm, Programs, Running, answers, serving
from infra.twin.story import Failed, Narrator

TRAINING = ("preset=tiny", "name=champion", "budget=null", "trainer.max_epochs=3")
TRAINED_ON = 36_000  # the images that the rest of the story shows are none of these
GOOD, SHIFTED, FRESH = 2_000, 6_000, 4_000  # images of each phase, none of them twice
KEEP, MORE_LABELS, CHECK_LABELS = 3, 4, 5  # exit codes of //ml:retrain
NOT_PROMOTED = (KEEP, MORE_LABELS, CHECK_LABELS)
TRUTHFUL = 0.6  # the share of answers for which callers send the true label
FLIPPED = 0.2
# A model as small as this one contradicts one right label in ten where it is sure.
MOST_NOISE = "0.15"


@dataclass(frozen=True)
class Estimate:
    """What //ml:live says of a version: the accuracy expected without labels, and its bounds."""

    time_s: float
    model: str
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Retraining:
    """What //ml:retrain decided, and the accuracies on the original test set of both models."""

    exit_code: int
    decision: str
    says: str
    run: Path | None


@dataclass
class Observed:
    """Everything observed. Times are seconds since 1970."""

    phases: list[tuple[float, str]] = field(default_factory=list)
    estimates: list[Estimate] = field(default_factory=list)
    alarms: list[Alarm] = field(default_factory=list)
    answers: list[LabelledResponse] = field(default_factory=list)
    retrained: Retraining | None = None
    endings: list[Retraining] = field(default_factory=list)
    verdict: Verdict | None = None
    labelled: tuple[Labelled, Labelled] = (Labelled(), Labelled())
    labels_taken: int = 0
    models: tuple[str, str] = ("", "")  # the old one's version and the new one's
    tested: tuple[float, float] = (0.0, 0.0)  # on the original test set
    shifted: tuple[float, float] = (0.0, 0.0)  # on shifted images that neither has seen
    took_s: float = 0.0


@dataclass(frozen=True)
class Plan:
    """How the story goes.

    Attributes:
        seconds: of good traffic, and of shifted traffic before the retraining.
        endings: how often the bad ending is tried.
        corruption: what happens to the camera, as //ml:drift names it.
        run: of the first model, trained on `TRAINED_ON` images; None to train it.
    """

    rate: float = 120.0
    seconds: tuple[float, float] = (15.0, 45.0)
    endings: int = 1
    corruption: str = "contrast:3"
    seed: int = 0
    run: Path | None = None


class Loop:
    """Plays the story."""

    def __init__(self, programs: Programs, plan: Plan, narrator: Narrator) -> None:
        self.programs, self.plan, self.narrator = programs, plan, narrator
        self.observed = Observed()
        self.key = "kiln_" + secrets.token_urlsafe(32)

    def play(self) -> Observed:
        """Plays everything, from the first model to the wrong labels.

        Raises:
            Failed: a command or a service ended as it should not.
        """
        begun = time.monotonic()
        champion = self._first_model()
        good, shifted, fresh, golden = self._streams(champion)
        callers = Callers(self.plan.rate, self.plan.seed)
        with ExitStack() as services:
            stable = services.enter_context(self._serve("the first model", "champion"))
            callers.route((stable, 1.0))
            callers.show(good)
            with callers.calling():
                self._change_the_camera(callers, shifted)
                self.observed.retrained = found = self._retrain("--init-from", champion)
                if found.exit_code:
                    raise Failed(f"no better model: {found.decision}, {found.says}")
                candidate = services.enter_context(self._serve("the next model", "champion"))
                callers.show(fresh)
                self._release(stable, candidate, callers, golden)
                self._phase("after the release")
                time.sleep(self.plan.seconds[0])
                self._estimate()
            self._compare(stable, candidate, fresh)
            self.observed.alarms = [*stable.alarms, *candidate.alarms]
        self.observed.models = (stable.model, candidate.model)
        self.observed.answers = callers.answers
        self.observed.labels_taken = callers.labels_taken
        self.observed.took_s = time.monotonic() - begun
        for number in range(self.plan.endings):
            self._bad_ending(champion, number)
        return self.observed

    # --- Its steps -------------------------------------------------------------------------------

    def _first_model(self) -> Path:
        self._phase("the first model")
        programs = self.programs
        programs.run("registry", "new-key", "keys")
        if self.plan.run:
            run = programs.workspace / "runs" / self.plan.run.name
            shutil.copytree(self.plan.run, run)
        else:
            programs.run("train", *TRAINING, f"data.train_size={TRAINED_ON}")
            run = programs.newest_run()
        version = programs.asked("registry", "register", run, "--json")["version"]
        programs.run("registry", "promote", version, "--p99-ms", "1000")
        return run

    def _streams(self, run: Path) -> tuple[list[Shot], list[Shot], list[Shot], list[Shot]]:
        folder, corruption = self.programs.workspace, ("--corruption", self.plan.corruption)
        parts = (
            ("good", 0, GOOD, ()),
            ("shifted", GOOD, SHIFTED, corruption),
            ("fresh", GOOD + SHIFTED, FRESH, corruption),
        )
        streams = []
        for name, skip, images, more in parts:
            file = folder / f"{name}.zip"
            cut = ("--skip", str(skip), "--images", str(images))
            self.programs.run("stream", run, file, *cut, *more)
            streams.append(read_stream(file))
        golden = folder / "golden.zip"
        self.programs.run("golden-images", run, golden, "--images", "10000")
        shots = read_stream(golden)
        random.Random(self.plan.seed).shuffle(shots)
        return streams[0], streams[1], streams[2], shots

    @contextmanager
    def _serve(self, name: str, alias: str) -> Iterator[Running]:
        """Runs the service with a registered model, whose signature it requires."""
        file = self.programs.workspace / f"{name.replace(' ', '-')}.onnx"
        self.programs.run("registry", "pull", alias, "-o", file)
        digest = hashlib.sha256(self.key.encode()).hexdigest()
        api = self.programs.paths["api"]
        pair = (self.key, digest)
        with serving(name, api, file, pair, self.programs.environment) as running:
            self.narrator.say(f"{name} serves: version {running.model[:12]}")
            yield running

    def _change_the_camera(self, callers: Callers, shifted: Sequence[Shot]) -> None:
        """Good traffic, then shifted traffic for which callers send true labels."""
        self._phase("good traffic")
        time.sleep(self.plan.seconds[0])
        self._estimate()
        self._phase(f"the camera changes: {self.plan.corruption}")
        callers.show(shifted)
        callers.truthful = TRUTHFUL
        time.sleep(self.plan.seconds[1])
        callers.truthful = 0.0
        self._estimate()

    def _estimate(self) -> None:
        """Estimates the accuracy of this phase's answers without their labels."""
        since, now = self.observed.phases[-1][0], time.time()
        time.sleep(4)  # the service writes its batch
        place = self.programs.workspace / f"captures-{len(self.observed.estimates)}"
        rows = list(Captures(open_store(str(self.programs.captures))).rows(since, now))
        Captures(open_store(str(place))).write("twin", 0, rows, since)
        plain = ("--json", "--plain")  # recalibration takes minutes at the first look at a model
        for one in self.programs.asked("live", *plain, "--captures", place, fine=(0, 3)):
            rate = one["all"]["expected"]
            estimate = Estimate(now, one["version"], rate["value"], rate["low"], rate["high"])
            self.observed.estimates.append(estimate)
            self.narrator.say(
                f"version {one['version'][:12]}: {estimate.value:.1%} expected without labels "
                f"({estimate.low:.1%} to {estimate.high:.1%})",
                "bold",
            )

    def _retrain(self, *words: str | Path, captures: Path | None = None) -> Retraining:
        self._phase("retraining")
        place = ("--captures", str(captures)) if captures else ()
        done = self.programs.run(
            *("retrain", "--p99-ms", "1000", "--max-label-noise", MOST_NOISE, "--again"),
            *(*words, *place),
            fine=(0, *NOT_PROMOTED),
        )
        records = sorted((self.programs.workspace / ".kiln" / "retrain").glob("*/record.json"))
        record = json.loads(records[-1].read_text("utf-8"))
        run = record.get("run")
        found = Retraining(
            done.exit_code, str(record["decision"]), str(record["says"]), run and Path(run)
        )
        self.narrator.say(f"{found.decision}: {found.says}", "bold")
        return found

    def _release(
        self, stable: Running, candidate: Running, callers: Callers, golden: Sequence[Shot]
    ) -> None:
        self._phase("canary with live labels")
        canary = Canary(stable, candidate, golden, self.programs.captures, self.narrator.say)
        callers.truthful = TRUTHFUL
        self.observed.verdict = verdict = canary.run(callers)
        callers.truthful = 0.0
        self.observed.labelled = canary.labelled
        for reason in verdict.reasons:
            self.narrator.quote(reason)

    def _compare(self, stable: Running, candidate: Running, fresh: Sequence[Shot]) -> None:
        """Both models on the same shifted images, which none was trained on, and on the test set as
        their artifacts say."""
        images = [shot.data for shot in fresh]
        shares = []
        for running in (stable, candidate):
            said = answers(running, images)
            shares.append(sum(a == s.label for a, s in zip(said, fresh, strict=True)) / len(fresh))
        self.observed.shifted = (shares[0], shares[1])
        listed = self.programs.asked("registry", "list", "--json")["versions"]
        by_version = {one["version"]: float(one["test"]["accuracy"]) for one in listed}
        self.observed.tested = (by_version[stable.model], by_version[candidate.model])

    def _bad_ending(self, champion: Path, number: int) -> None:
        """Retrains the first model again, on the same captures with a fifth of the labels wrong."""
        wrong = self.programs.workspace / f"captures-wrong-{number}"
        flipped = flip_labels(
            Captures(open_store(str(self.programs.captures))),
            Captures(open_store(str(wrong))),
            f"{self.plan.seed} {number}",
            before=self._began("canary"),
        )
        self.narrator.say(f"{flipped:,} labels are flipped")
        back = ("--to", self.observed.models[0], "--reason", "the story's other ending")
        self.programs.run("registry", "rollback", *back)
        self.observed.endings.append(self._retrain("--init-from", champion, captures=wrong))

    def _began(self, phase: str) -> float:
        return next(time_s for time_s, name in self.observed.phases if name.startswith(phase))

    def _phase(self, name: str) -> None:
        self.observed.phases.append((time.time(), name))
        self.narrator.say(name, "bold")


def flip_labels(source: Captures, target: Captures, seed: str, before: float) -> int:
    """Copies the captures and labels from before a time, with a fifth of the labels changed to
    another class; returns how many were changed."""
    rows = list(source.rows(until=before))
    said_so_far = source.labels()
    names = sorted({label.label for label in said_so_far if label.label})
    labels = [label for label in said_so_far if label.time < before and label.label]
    luck, flipped, said = random.Random(seed), 0, list[Label]()
    for label in labels:
        name = str(label.label)
        if luck.random() < FLIPPED:
            name = luck.choice([other for other in names if other != name])
            flipped += 1
        said.append(replace(label, label=name))
    target.write("twin", 0, rows, rows[0].time)
    target.say_together(said)
    return flipped


def as_dict(observed: Observed) -> dict[str, Any]:
    """The observations that are kept as JSON."""
    found = asdict(observed)
    del found["answers"]
    found["verdict"] = None if observed.verdict is None else observed.verdict.decision
    found["reasons"] = [] if observed.verdict is None else list(observed.verdict.reasons)
    return found
