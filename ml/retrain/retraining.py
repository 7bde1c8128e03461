"""One retraining from the captures to the decision: estimate, labels, train, register, gates."""

import argparse
import os
import subprocess
from dataclasses import asdict
from datetime import datetime
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from omegaconf import DictConfig, open_dict
from rich.console import Console

from common.captures import CapturedAnswer, Captures, Verdict, usual_location
from common.files import write_whole
from common.stores import open_store
from common.terminal import Progress
from ml import stages
from ml.artifact.artifact import Artifact
from ml.commands.report import card_facts, open_finished
from ml.data.captured import CapturedData, LiveTest
from ml.data.checks import open_data
from ml.live.estimate import (
    Interval,
    estimate,
    labelled_accuracy,
    own_confidence,
    sample,
    used_twice,
)
from ml.registry.gates import examine, judge
from ml.registry.ledger import REFUSED, Gate, GateLimits, RegistryError
from ml.registry.main import parser as registry_parser
from ml.registry.outcomes import Examples
from ml.registry.registry import CHAMPION, Registry
from ml.registry.registry import usual_location as usual_registry
from ml.registry.signing import trusted_key
from ml.registry.versions import Manifest
from ml.report.model_card import to_markdown
from ml.retrain.evidence import LiveComparison, compare_live, label_noise, labels_needed
from ml.retrain.recipe import champion_config, next_config, starting_weights
from ml.retrain.steps import Decision, Record
from ml.runs.folder import RunFolder, create_run
from ml.runs.loading import labelled_test

_SUSPECTS = 50  # listed in the record


class Retraining:
    """Carries out the steps of a record.

    Args:
        options: of the command.
        workspace: the folder that contains runs/.
    """

    def __init__(
        self, record: Record, options: argparse.Namespace, workspace: Path, console: Console
    ) -> None:
        self.record, self.options = record, options
        self.runs, self.workspace, self.console = workspace / "runs", workspace, console
        self.url = options.registry or usual_registry()
        self.registry = Registry.open(self.url)
        self.captures_url = options.captures or usual_location()

    def carry_out(self) -> bool:
        """Carries out all steps up to the decision, which is then in the record.

        Returns:
            False if the new champion was to be released but was not.

        Raises:
            RegistryError, ConfigError, DatasetError, StoreError, ArtifactError: the cause; the
                champion is unchanged.
        """
        options = self.options
        gap = self._estimate()
        if gap <= options.shortfall and not options.always:
            return self._end(
                "keep", f"it is as right as it promises within {options.shortfall:.1%}"
            )
        live, needed = self._labels(gap)
        if live is None:
            return self._end("more labels", f"about {needed:,} more, at random or by //ml:label")
        if not self._labels_look_right(live):
            return self._end("check labels", "too many contradict two models that are sure")
        if options.dry_run:
            return self._end("would be promoted", "if it turns out better: nothing was trained")
        run = self._train()
        version = self._register(run)
        return self._judge(version, live)

    # --- Is retraining needed, and are there enough labels? -----------------------------------

    @cached_property
    def champion(self) -> Manifest:
        """The current champion's version."""
        if CHAMPION not in self.registry.state().aliases:
            raise RegistryError(
                f"{self.url} has no champion to begin from: register the model in production with "
                "its run folder, then promote it (bazel run //ml:registry -- register …)"
            )
        return self.registry.versions.manifest(self.registry.resolve(CHAMPION))

    @cached_property
    def captures(self) -> Captures:
        return Captures(open_store(self.captures_url))

    @cached_property
    def verdicts(self) -> dict[tuple[str, int], Verdict]:
        """The labels of the captured answers."""
        return self.captures.verdicts()

    @cached_property
    def config(self) -> DictConfig:
        """The configuration to train the next model; the record's cut-off determines its data."""
        champion = champion_config(self.champion.lineage.config)
        self.weights = starting_weights(self.options.init_from, self.runs)
        since = [f"data.since='{self.options.since}'"] if self.options.since else []
        overrides = [f"data.captures='{self.captures_url}'", *since, *self.options.overrides]
        return next_config(champion, self.weights, overrides, self.record.until)

    @cached_property
    def data(self) -> CapturedData:
        return open_data(self.config)

    def _estimate(self) -> float:
        """Estimates by how much the champion's live accuracy is below that on the test set."""
        manifest = self.champion
        until = datetime.fromisoformat(self.record.until).timestamp()
        with Progress("reading captured answers"):
            rows = list(self.captures.answers(until=until))
        mine = [row for row in rows if row.model_version == manifest.version]
        family = {manifest.version, *(parent.version for parent in manifest.lineage.parents)}
        mine = mine or [row for row in rows if row.model_version in family] or rows
        if not mine:
            self.record.note(
                "estimate", f"nothing is captured in {self.captures_url}", self.console
            )
            return 0.0
        promise, twice = manifest.test.accuracy, used_twice(mine)
        expected = _expected(mine, manifest)
        says = f"expected without labels {_shown(expected)}"
        found = expected
        by_version: dict[str, list[CapturedAnswer]] = {}
        for row in mine:
            by_version.setdefault(row.model_version, []).append(row)
        for _, answers in sorted(by_version.items()):
            least_kept = min(row.probability for row in answers)
            drawn = sample(answers, self.verdicts, manifest.classes, twice, least_kept)
            if labelled := labelled_accuracy(drawn, len(manifest.classes)):
                found = labelled.accuracy
                chosen = ", chosen and not drawn" if labelled.chosen else ""
                says += f"; on {labelled.rows:,} labels{chosen} {_shown(found)}"
        gap = promise - found.value
        self.record.note(
            "estimate",
            f"champion {manifest.version[:12]} promises {promise:.2%}; of {len(mine):,} captured "
            f"answers {says}: {100 * gap:+.2f} points short",
            self.console,
            champion=manifest.version,
            promise=promise,
            expected=asdict(expected),
            shortfall=gap,
        )
        return gap

    def _labels(self, gap: float) -> tuple[LiveTest | None, int]:
        """The live test set if it can show a gain of half the shortfall; else about how many
        labelled captures are missing."""
        gain, share = max(gap / 2, 0.02), self.config.data.live_share
        enough = labels_needed(gain, 2 * gain, self.options.alpha)
        assert enough is not None
        enough = max(enough, self.options.min_labels)
        if not self.verdicts:
            self.record.note("labels", "there are none yet", self.console, needed=enough)
            return None, round(enough / share)
        live = self.data.live_test()
        have, train = len(live.labels), self.data.packed.count("train")
        missing = 0 if self.options.always and have else max(0, enough - have)
        facts = self.data.packed.facts
        left = ", ".join(f"{n:,} {what}" for what, n in facts["left_out"].items() if n) or "nothing"
        self.record.note(
            "labels",
            f"{train:,} labelled captures to train on, {have:,} for the live test, where a gain of "
            f"{100 * gain:.1f} points needs about {enough:,}; left out: {left}",
            self.console,
            train=train,
            live=have,
            needed=enough,
            left_out=facts["left_out"],
            version=str(self.data.packed.folder),
            digest=facts["digest"],
        )
        return (None if missing else live), round(missing / share)

    def _labels_look_right(self, live: LiveTest) -> bool:
        images = np.concatenate([self.data.packed.images("train")[:], live.images])
        labels = np.concatenate([self.data.packed.labels("train"), live.labels])
        artifact = examine(self.registry, self.champion.version, None).artifact
        noise = label_noise(artifact.predict(images).probabilities, labels)
        rows = [row for part in ("train", "test") for row in self.data.packed.facts["rows"][part]]
        suspects = [
            {"request_id": rows[n]["request_id"], "index": rows[n]["index"]}
            for n in noise.suspects[:_SUSPECTS]
        ]
        most = self.options.max_label_noise
        if noise.share is None or noise.low is None:
            says, passed = "cannot be told: too few labels, or the champion is lost on them", True
        else:
            passed = noise.share <= most
            says = (
                f"{noise.share:.1%} of {noise.judged:,} labels contradict two models that are sure "
                f"of another class, at most {most:.0%}"
            )
        self.record.note(
            "label noise",
            says,
            self.console,
            suspects=suspects,
            share=noise.share,
            low=noise.low,
            judged=noise.judged,
        )
        return passed

    # --- The next model -----------------------------------------------------------------------

    def _train(self) -> RunFolder:
        """Trains the run of this record, or resumes it if it was killed; returns the finished
        run."""
        run = RunFolder(Path(self.record.run)) if self.record.run else None
        if run is None or not run.metrics.exists():
            cfg = self.config
            with open_dict(cfg):
                cfg.data.folder = str(self.data.packed.folder)  # exactly this version, from now on
            run = create_run(self.runs, cfg, datetime.now())
            self.record.run = str(run.path)
            self.record.save()
        start = self.weights or "nothing"
        if not run.is_finished:
            with run.lock():
                stages.train(run.load_config(), run, self.console)
        self.record.note("train", f"from {start}: {run.path}", self.console, run=str(run.path))
        return run

    def _register(self, run: RunFolder) -> str:
        words = ["register", str(run.path), "--parent", self.champion.version]
        words += ["--relation", "retrained from", "--registry", self.url]
        words += ["--reason", f"retrained on labelled captures until {self.record.until}"]
        options = registry_parser().parse_args(words)
        found = options.handler(self.registry, options, lambda _: None)
        version: str = found.data["version"]
        self.record.note("register", f"version {version[:12]}", self.console, version=version)
        return version

    def _judge(self, version: str, live: LiveTest) -> bool:
        options = self.options
        test = labelled_test(self.data)
        manifest = self.registry.versions.manifest(version)
        examples = Examples(f"{manifest.dataset_digest}/test", np.asarray(test.images), test.labels)
        names = ("margin", "alpha", "p99_ms", "max_calibration_error")
        limits = GateLimits(**{name: getattr(options, name) for name in names})
        state = self.registry.state()
        gates = judge(
            self.registry, version, self.champion.version, limits, examples, key=trusted_key()
        )
        compared = self._compared(version, live)
        gates = [*gates, compared.gate(options.alpha)]
        for gate in gates:
            mark = "passed" if gate.passed else "FAILED"
            self.record.note(f"gate: {gate.name}", f"{mark}: {gate.detail}", self.console)
        decision, says = decide(gates, compared, self.config.data.live_share)
        if options.no_promote:
            if decision == "promoted":
                decision, says = "would be promoted", f"version {version[:12]}: {says}"
            return self._end(decision, says)
        self.registry.promote(
            version,
            CHAMPION,
            why=f"retrained on labelled captures until {self.record.until}",
            verdict="passed" if decision == "promoted" else REFUSED,
            evidence={"gates": [asdict(gate) for gate in gates], "limits": asdict(limits)},
            seen=state.number,
        )
        self._end(decision, says)
        return decision != "promoted" or not options.deploy or self._release(version)

    def _compared(self, version: str, live: LiveTest) -> LiveComparison:
        def right(of: str) -> NDArray[np.bool_]:
            artifact: Artifact = examine(self.registry, of, None).artifact
            answers = artifact.predict(live.images).probabilities.argmax(axis=1)
            return np.asarray(answers == live.labels)

        return compare_live(
            right(version), right(self.champion.version), live.weights, self.options.alpha
        )

    def _release(self, version: str) -> bool:
        model = self.record.folder / "model.onnx"
        write_whole(model, self.registry.versions.model(version))
        environment = os.environ | {"KILN_MODEL": str(model), "KILN_MODEL_VERSION": version}
        done = subprocess.run(  # noqa: S602 # the user's own command
            self.options.deploy, shell=True, cwd=self.workspace, env=environment
        )
        self.record.note("release", f"exit code {done.returncode}", self.console)
        return done.returncode == 0

    def _end(self, decision: Decision, says: str) -> bool:
        self.record.decide(decision, says)
        return True


def decide(gates: list[Gate], compared: LiveComparison, live_share: float) -> tuple[Decision, str]:
    """The decision from the gates: only if the live gate alone fails can more labels help."""
    failed = [gate.name for gate in gates if not gate.passed]
    if not failed:
        return "promoted", f"{100 * compared.weighted:+.2f} points of the live traffic"
    live = gates[-1].name
    if failed == [live] and compared.needed and compared.weighted > 0:
        missing = max(1, compared.needed - compared.images)
        return "more labels", (
            f"a gain of {100 * compared.paired.difference:.1f} points is no proof yet: about "
            f"{round(missing / live_share):,} more labelled captures would tell"
        )
    return "keep", f"the new model failed: {', '.join(failed)}"


def _expected(rows: list[CapturedAnswer], manifest: Manifest) -> Interval:
    probabilities = np.array([row.probabilities for row in rows])
    kept = np.array([row.probability for row in rows])
    belief = own_confidence(probabilities, manifest.test.calibration_error)
    return estimate(probabilities, belief, kept).accuracy


def _shown(interval: Interval) -> str:
    return f"{interval.value:.2%} ({interval.low:.2%} to {interval.high:.2%})"


def to_page(record: Record) -> str:
    """The page by which a person decides whether to promote the model; without a model, the steps
    alone.

    Raises:
        TrainedError, ArtifactError, DatasetMismatch, FinishedError: the run cannot be read.
    """
    parts = [
        f"# Retraining: {record.decision or 'not finished'}",
        record.says,
        f"Captures and labels until {record.until}.",
        "| step | what it says |\n|---|---|\n"
        + "\n".join(f"| {step.name} | {_cell(step.says)} |" for step in record.steps),
    ]
    version = next((s.facts["version"] for s in record.steps if s.name == "register"), None)
    if version:
        command = f"./tools/bazel run //ml:registry -- promote {version[:16]}"
        parts.append(f"To put it in the champion's place:\n\n```sh\n{command}\n```")
    if record.run and version:
        run = Path(record.run)
        facts = card_facts(
            open_finished(run), f"./tools/bazel run //ml:train -- --rerun {run.name}"
        )
        parts.append(to_markdown(facts).partition("\n---\n")[2].strip())
    return "\n\n".join(filter(None, parts)) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
