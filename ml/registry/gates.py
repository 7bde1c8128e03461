"""Promotion gates: size, calibration, accuracy and latency, each with its evidence."""

import math
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.model.artifact import INPUT, ArtifactError
from common.model.signature import PublicKey, SignatureError
from ml.artifact.artifact import Artifact, load_artifact, new_session
from ml.artifact.evaluation import greatest_calibration_by_chance
from ml.registry.ledger import Gate, GateLimits
from ml.registry.outcomes import (
    Comparison,
    Examples,
    Outcomes,
    compare_paired,
    compare_proportions,
    outcomes,
)
from ml.registry.registry import Registry
from ml.registry.signing import check
from ml.registry.versions import Manifest

_ROUNDS, _ROUND_S, _FEWEST_SAMPLES = 3, 0.4, 100


@dataclass(frozen=True)
class Subject:
    """A registered model as the gates see it; `outcomes` is None without test images."""

    manifest: Manifest
    artifact: Artifact
    outcomes: Outcomes | None

    @property
    def accuracy(self) -> float:
        """Accuracy as measured here, or as recorded in the artifact."""
        return self.outcomes.accuracy if self.outcomes else self.manifest.test.accuracy


def judge(
    registry: Registry,
    candidate: str,
    champion: str | None,
    limits: GateLimits,
    examples: Examples | None,
    *,
    use_benchmark: bool = False,
    key: PublicKey | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> list[Gate]:
    """Evaluates all gates, skipping those that need a model which cannot run.

    Args:
        champion: the version to compare with, if there is one.
        use_benchmark: use the latency in the candidate's benchmark instead of measuring it.
        key: the candidate's signature must be by this key; None skips the check.
    """
    try:
        subject = examine(registry, candidate, examples, progress)
    except ArtifactError as exc:
        return [Gate("artifact", False, str(exc))]
    gates = [
        Gate("artifact", True, "contract kept, parity vector answered on this machine"),
        *([_signature(registry, candidate, key)] if key else []),
        _size(subject.manifest, limits),
        _calibration(subject, limits),
        *_accuracy(subject, limits),
    ]
    progress("measuring latency")
    gates.append(_latency(registry, subject, limits, use_benchmark))
    if champion is None or champion == candidate:
        why = "there is none yet" if champion is None else "it is the champion itself"
        return [*gates, Gate("against the champion", True, why)]
    if registry.versions.manifest(champion).classes != subject.manifest.classes:
        why = "it has other classes: nothing to compare"
        return [*gates, Gate("against the champion", False, why)]
    try:
        other = examine(registry, champion, examples, progress)
    except ArtifactError as exc:
        return [*gates, Gate("against the champion", False, f"the champion cannot run: {exc}")]
    return [*gates, _against(subject, other, limits)]


def examine(
    registry: Registry,
    version: str,
    examples: Examples | None,
    progress: Callable[[str], None] = lambda _: None,
) -> Subject:
    """Loads a model from the registry, checks it, and runs it on the test images.

    Raises:
        ArtifactError: its contract, signature or parity vector is violated.
        Damaged: its bytes are not what was registered.
    """
    manifest, data = registry.versions.manifest(version), registry.versions.model(version)
    with tempfile.TemporaryDirectory(prefix="kiln-registry-") as folder:
        path = Path(folder, f"{version[:12]}.onnx")
        path.write_bytes(data)
        artifact = load_artifact(path)
    if examples is None or examples.images.shape[1:3] != manifest.input_size:
        return Subject(manifest, artifact, None)
    progress(f"running {version[:12]} over {len(examples.labels):,} test images")
    return Subject(manifest, artifact, outcomes(registry, version, artifact, examples))


def _signature(registry: Registry, version: str, key: PublicKey) -> Gate:
    values: dict[str, object] = {"key": key.fingerprint}
    try:
        check(registry, version, key)
    except SignatureError as exc:
        return Gate("signature", False, f"{exc}: `sign` adds one", values)
    return Gate("signature", True, f"of the key {key.fingerprint[:12]}…", values)


def _size(manifest: Manifest, limits: GateLimits) -> Gate:
    size = manifest.file.size
    detail = f"{size / 1e6:.3g} MB, at most {limits.max_bytes / 1e6:g} MB"
    return Gate("size", size <= limits.max_bytes, detail, {"bytes": size})


def _calibration(subject: Subject, limits: GateLimits) -> Gate:
    """Whether confidence equals accuracy on average, and whether proper scores are as expected: for
    a nearly perfect model, the former misses a few overconfident mistakes. Both allow for the
    sampling error of a calibrated model on this number of images.
    """
    measured, most = subject.outcomes, limits.max_calibration_error
    test = subject.manifest.test
    error = (measured or test).calibration_error
    source = "measured here" if measured else "as the artifact says"
    if measured:
        chance = measured.calibration_by_chance
    else:
        chance = greatest_calibration_by_chance(test.accuracy, test.images)
    detail = f"error {error:.4f} {source}, at most {most:.4f} and {chance:.4f} by chance"
    if measured is None:
        loss = test.loss
        bound = (1 + limits.max_excess_loss) * _greatest_honest_loss(subject.manifest)
        detail += f"; log loss {loss:.4f}, at most {bound:.4f} where so many answers are right"
        recorded = {"error": error, "chance": chance, "loss": loss, "honest_loss": bound}
        return Gate("calibration", error <= most + chance and loss <= bound, detail, recorded)
    scores = {"log loss": measured.loss, "Brier score": measured.brier}
    excess = max(score.excess for score in scores.values())
    for name, score in scores.items():
        detail += f"; {name} {score.score:.4f}, self-estimated {score.expected:.4f}"
    detail += f", at most {limits.max_excess_loss:.0%} more beyond chance"
    found = {name: vars(score) for name, score in scores.items()}
    values: dict[str, object] = {"error": error, "chance": chance, "excess": excess, **found}
    passed = error <= most + chance and excess <= limits.max_excess_loss
    return Gate("calibration", passed, detail, values)


def _greatest_honest_loss(manifest: Manifest) -> float:
    """The largest mean cross-entropy of calibrated predictions with this accuracy, by Fano's
    inequality; without mistakes, half a mistake is assumed.

    Source: Cover and Thomas 2006, Elements of Information Theory, section 2.10.
    """
    test, others = manifest.test, len(manifest.classes) - 1
    wrong = (test.images * (1 - test.accuracy) + 0.5) / (test.images + 1)
    wrong = min(wrong, others / (others + 1))  # of random guesses, which are calibrated
    entropy = -wrong * math.log(wrong) - (1 - wrong) * math.log(1 - wrong)
    return entropy + wrong * math.log(others)


def _accuracy(subject: Subject, limits: GateLimits) -> Iterator[Gate]:
    claimed, measured = subject.manifest.test.accuracy, subject.outcomes
    on_its_own_test = measured and measured.test_set.startswith(subject.manifest.dataset_digest)
    if measured and on_its_own_test:
        detail = f"{measured.accuracy:.2%} measured here, the artifact says {claimed:.2%}"
        agree = abs(measured.accuracy - claimed) <= limits.accuracy_drift
        values = {"measured": measured.accuracy, "claimed": claimed}
        yield Gate("scores hold", agree, detail, values)
    if limits.min_accuracy:
        detail = f"{subject.accuracy:.2%}, at least {limits.min_accuracy:.2%}"
        passed = subject.accuracy >= limits.min_accuracy
        yield Gate("accuracy", passed, detail, {"accuracy": subject.accuracy})


def _latency(registry: Registry, subject: Subject, limits: GateLimits, use_benchmark: bool) -> Gate:
    if use_benchmark:
        p99_ms = _benchmarked_p99(subject.manifest)
        if p99_ms is None:
            detail = "the version was registered without a benchmark of one image on one thread"
            return Gate("latency", False, detail)
        source = "by its benchmark"
    else:
        p99_ms = measure_p99(registry.versions.model(subject.manifest.version), subject.manifest)
        source = "measured here"
    detail = f"p99 of one image {p99_ms:.2f} ms {source}, at most {limits.p99_ms:g} ms"
    return Gate("latency", p99_ms <= limits.p99_ms, detail, {"p99_ms": p99_ms, "source": source})


def measure_p99(model: bytes, manifest: Manifest) -> float:
    """99th percentile in milliseconds of one image on one thread, in the least disturbed round."""
    session = new_session(model, threads=1)
    images = np.random.default_rng(0).integers(0, 256, (1, *manifest.input_size, 3), np.uint8)
    rounds = []
    for _ in range(_ROUNDS):
        seconds: list[float] = []
        end = time.perf_counter() + _ROUND_S
        while len(seconds) < _FEWEST_SAMPLES or time.perf_counter() < end:
            start = time.perf_counter()
            session.run(None, {INPUT: images})
            seconds.append(time.perf_counter() - start)
        rounds.append(float(np.percentile(seconds, 99)) * 1e3)
    return min(rounds)


def _benchmarked_p99(manifest: Manifest) -> float | None:
    """The p99 in `benchmark.json` of the exported model, or of its INT8 sibling."""
    name = "ONNX INT8" if manifest.quantisation == "int8" else "ONNX simplified"
    for result in (manifest.lineage.benchmark or {}).get("results", ()):
        if result["name"] == name and result["threads"] == 1 and result["measurement"]:
            for point in result["measurement"]["points"]:
                if point["batch"] == 1:
                    return float(point["p99_ms"])
    return None


def _against(subject: Subject, champion: Subject, limits: GateLimits) -> Gate:
    comparison = _compare(subject, champion, limits.alpha)
    if comparison is None:
        detail = "tested on other data: give images that both can be asked about, with --test-data"
        return Gate("against the champion", False, detail)
    c = comparison
    detail = (
        f"{subject.accuracy:.2%} against {champion.accuracy:.2%}: {c.difference * 100:+.2f} points "
        f"({c.method}: {_p(c.p_value)}; {c.detail}); "
    )
    if limits.must_be_better:
        passed = c.is_superior(limits.alpha)
        detail += f"must be better with p below {limits.alpha:g}"
    else:
        passed = c.is_not_inferior(limits.margin)
        detail += (
            f"with {1 - limits.alpha:.0%} confidence at worst {c.lower * 100:+.2f}, "
            f"allowed {-limits.margin * 100:+.2f}"
        )
    values = {"champion": champion.manifest.version, "margin": limits.margin, **vars(c)}
    return Gate("against the champion", passed, detail, values)


def _p(value: float) -> str:
    return f"p = {value:.2g}" if value >= 1e-4 else "p < 0.0001"


def _compare(subject: Subject, champion: Subject, alpha: float) -> Comparison | None:
    if subject.outcomes and champion.outcomes:
        return compare_paired(subject.outcomes.right, champion.outcomes.right, alpha)
    if subject.manifest.dataset_digest != champion.manifest.dataset_digest:
        return None
    a, b = subject.manifest.test, champion.manifest.test
    right_a, right_b = (round(scores.accuracy * scores.images) for scores in (a, b))
    return compare_proportions(right_a, a.images, right_b, b.images, alpha)
