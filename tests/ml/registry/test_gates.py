"""ml/registry/gates.py: each gate passes, and each one fails."""

import re
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.typing import NDArray

from common.model.artifact import Scores
from ml.artifact.evaluation import Labelled, ProperScore, proper_scores
from ml.registry import gates as gates_module
from ml.registry import outcomes as outcomes_module
from ml.registry.gates import Subject, examine, judge
from ml.registry.ledger import Gate, GateLimits, RegistryError
from ml.registry.outcomes import Examples, Outcomes, _measure, find_examples
from ml.registry.registry import Registry
from ml.registry.versions import Lineage, Manifest
from ml.runs.datasets import Dataset, UnavailableDataset
from tests.ml.registry.artifacts import artifact
from tests.ml.registry.runnable import Maker, examples, probabilities

LOOSE = GateLimits(p99_ms=1000)  # a busy machine is no news here


@pytest.fixture(autouse=True)
def short_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gates_module, "_ROUND_S", 0.01)


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry.open(str(tmp_path / "registry"), who="ada")


@pytest.fixture
def maker(tmp_path: Path) -> Maker:
    return Maker(tmp_path)


def add(registry: Registry, data: bytes, lineage: Lineage | None = None) -> str:
    return registry.register(data, lineage)[0].version


def by_name(gates: list[Gate]) -> dict[str, Gate]:
    return {gate.name: gate for gate in gates}


def test_a_good_model_passes_every_gate(registry: Registry, maker: Maker) -> None:
    champion, candidate = add(registry, maker.artifact(130)), add(registry, maker.artifact(128.5))
    gates = judge(registry, candidate, champion, LOOSE, examples())
    assert [gate.name for gate in gates] == [
        "artifact",
        "size",
        "calibration",
        "latency",
        "against the champion",
    ]
    assert all(gate.passed for gate in gates)
    against = gates[-1]
    assert "McNemar, exact: p" in against.detail
    assert against.values["champion"] == champion
    assert against.values["difference"] > 0


def test_the_first_model_has_no_champion_to_beat(registry: Registry, maker: Maker) -> None:
    version = add(registry, maker.artifact())
    assert judge(registry, version, None, LOOSE, None)[-1].detail == "there is none yet"
    assert judge(registry, version, version, LOOSE, None)[-1].passed


def test_a_worse_model_fails_on_the_same_images(registry: Registry, maker: Maker) -> None:
    champion, candidate = add(registry, maker.artifact(128.5)), add(registry, maker.artifact(135))
    gate = judge(registry, candidate, champion, LOOSE, examples())[-1]
    assert not gate.passed
    assert "0 gained, " in gate.detail
    wide = replace(LOOSE, margin=0.1)
    assert judge(registry, candidate, champion, wide, examples())[-1].passed


def test_better_can_be_asked_for(registry: Registry, maker: Maker) -> None:
    worse, better = add(registry, maker.artifact(131)), add(registry, maker.artifact(128.5))
    ambitious = replace(LOOSE, must_be_better=True)
    assert judge(registry, better, worse, ambitious, examples())[-1].passed
    assert not judge(registry, worse, better, ambitious, examples())[-1].passed


def test_without_images_the_recorded_accuracies_are_compared(
    registry: Registry, maker: Maker
) -> None:
    champion, candidate = add(registry, maker.artifact(128.5)), add(registry, maker.artifact(129.5))
    gate = judge(registry, candidate, champion, replace(LOOSE, margin=0.03), None)[-1]
    assert gate.passed
    assert "two proportions" in gate.detail


def test_scores_on_other_data_are_not_compared(registry: Registry, maker: Maker) -> None:
    champion = add(registry, maker.artifact(128.5))
    candidate = add(registry, maker.artifact(129, dataset_digest="f" * 64))
    gate = judge(registry, candidate, champion, LOOSE, None)[-1]
    assert not gate.passed
    assert "--test-data" in gate.detail
    assert judge(registry, candidate, champion, LOOSE, examples())[-1].passed


def test_other_classes_are_not_compared(registry: Registry, maker: Maker) -> None:
    champion = add(registry, maker.artifact(128.5))
    candidate = add(registry, maker.artifact(129, classes=("dark", "light")))
    gate = judge(registry, candidate, champion, LOOSE, examples())[-1]
    assert not gate.passed
    assert "other classes" in gate.detail


def test_a_model_that_does_not_reach_its_own_scores_fails(registry: Registry, maker: Maker) -> None:
    boast = maker.artifact(140, test_metrics=Scores(4000, 0.999, 0.9, 0.1, 0.01))
    own = replace(examples(), digest="md5:" + "c" * 32 + "/test")
    gate = by_name(judge(registry, add(registry, boast), None, LOOSE, own))["scores hold"]
    assert not gate.passed
    assert " 99.90%" in gate.detail
    honest = add(registry, maker.artifact(141))
    assert by_name(judge(registry, honest, None, LOOSE, own))["scores hold"].passed


def test_a_few_mistakes_of_full_confidence_fail(registry: Registry, maker: Maker) -> None:
    """394 answers of 1, two mistakes of 0.999: the calibration error is half a per cent."""
    answers = np.full((397, 2), (1.0, 0.0))
    answers[394:] = (0.001, 0.999), (0.999, 0.001), (0.98, 0.02)
    labels = np.zeros(397, np.int64)
    labels[395] = 1
    loss, brier = proper_scores(answers, labels)
    right = answers.argmax(axis=1) == labels
    runaway = Outcomes("x/test", 395 / 397, 0.005, 0.001, loss, brier, right)
    manifest, _ = registry.register(maker.artifact())
    subject = Subject(manifest, None, runaway)  # type: ignore[arg-type]
    gate = gates_module._calibration(subject, LOOSE)
    assert (gate.passed, gate.values["error"]) == (False, 0.005)
    assert "log loss 0.03" in gate.detail
    honest = replace(runaway, loss=replace(loss, expected=loss.score), brier=ProperScore(0, 0, 0))
    assert gates_module._calibration(replace(subject, outcomes=honest), LOOSE).passed


@pytest.mark.parametrize(("images", "passes"), [(201, True), (10_000, False)])
def test_a_calibration_error_that_few_images_show_by_chance_passes(
    registry: Registry, maker: Maker, images: int, passes: bool
) -> None:
    """Answers of 0.9, of which 85.5 % are right, where 1 % is allowed."""
    answers, labels = np.full((images, 2), (0.9, 0.1)), np.zeros(images, np.int64)
    labels[: round(0.145 * images)] = 1
    manifest, _ = registry.register(maker.artifact())
    artifact = SimpleNamespace(
        predict=lambda _: SimpleNamespace(probabilities=answers),
        metadata=SimpleNamespace(classes=("a", "b")),
    )
    pixels = np.zeros((images, 1, 1, 3), np.uint8)
    measured = _measure(artifact, Examples("x/test", pixels, labels))  # type: ignore[arg-type]
    gate = gates_module._calibration(
        Subject(manifest, None, measured),  # type: ignore[arg-type]
        GateLimits(max_calibration_error=0.01),
    )
    assert gate.values["error"] == pytest.approx(0.045, abs=0.001)
    assert gate.passed is passes


@pytest.mark.parametrize(("images", "passes"), [(201, True), (10_000, False)])
def test_a_recorded_calibration_error_is_granted_as_much_chance(
    registry: Registry, maker: Maker, images: int, passes: bool
) -> None:
    recorded = Scores(images, 0.85, 0.85, 0.4, 0.045)
    version = add(registry, maker.artifact(test_metrics=recorded))
    limits = GateLimits(max_calibration_error=0.01, p99_ms=1000)
    assert by_name(judge(registry, version, None, limits, None))["calibration"].passed is passes


@pytest.mark.parametrize(("loss", "passes"), [(0.05, True), (0.44, False)])
def test_recorded_scores_are_judged_by_what_an_honest_model_can_lose(
    registry: Registry, maker: Maker, loss: float, passes: bool
) -> None:
    version = add(registry, maker.artifact(test_metrics=Scores(397, 0.995, 0.995, loss, 0.005)))
    assert by_name(judge(registry, version, None, LOOSE, None))["calibration"].passed is passes


@pytest.mark.parametrize(
    ("limits", "gate"),
    [
        (GateLimits(max_bytes=100, p99_ms=1000), "size"),
        (GateLimits(max_calibration_error=0.0001, p99_ms=1000), "calibration"),
        (GateLimits(min_accuracy=1.0, p99_ms=1000), "accuracy"),
        (GateLimits(p99_ms=1e-6), "latency"),
    ],
)
def test_each_limit_fails_its_own_gate(
    registry: Registry, maker: Maker, limits: GateLimits, gate: str
) -> None:
    gates = judge(registry, add(registry, maker.artifact(131)), None, limits, examples())
    assert [g.name for g in gates if not g.passed] == [gate]


def test_a_limit_that_is_just_kept_is_kept(registry: Registry, maker: Maker) -> None:
    point = {"points": [{"batch": 8, "p99_ms": 9.0}, {"batch": 1, "p99_ms": 3.5}]}
    results = [{"name": "ONNX simplified", "threads": 1, "measurement": point}]
    own = replace(examples(), digest="md5:" + "c" * 32 + "/test")
    claimed = Scores(4000, 0.75, 0.9, 0.1, 0.01)
    lineage = Lineage(benchmark={"results": results})
    version = add(registry, maker.artifact(140, test_metrics=claimed), lineage)
    measured = examine(registry, version, own).outcomes
    assert measured
    size = registry.versions.manifest(version).file.size
    just = GateLimits(
        max_bytes=size,
        max_calibration_error=measured.calibration_error - measured.calibration_by_chance,
        max_excess_loss=max(measured.loss.excess, measured.brier.excess),
        min_accuracy=measured.accuracy,
        accuracy_drift=abs(measured.accuracy - 0.75),
        p99_ms=3.5,
    )
    beyond = GateLimits(
        max_bytes=size - 1,
        max_calibration_error=measured.calibration_error - measured.calibration_by_chance - 1e-9,
        max_excess_loss=max(measured.loss.excess, measured.brier.excess),
        min_accuracy=measured.accuracy + 1e-9,
        accuracy_drift=abs(measured.accuracy - 0.75) - 1e-9,
        p99_ms=3.499,
    )
    kept = judge(registry, version, None, just, own, use_benchmark=True)
    assert [gate.name for gate in kept if not gate.passed] == []
    surer = replace(just, max_excess_loss=just.max_excess_loss - 1e-9)
    (gate,) = [
        g for g in judge(registry, version, None, surer, own, use_benchmark=True) if not g.passed
    ]
    assert gate.name == "calibration"
    broken = judge(registry, version, None, beyond, own, use_benchmark=True)
    assert [gate.name for gate in broken if not gate.passed] == [
        "size",
        "calibration",
        "scores hold",
        "accuracy",
        "latency",
    ]


def test_each_gate_says_what_it_saw(registry: Registry, maker: Maker) -> None:
    champion, candidate = add(registry, maker.artifact(130)), add(registry, maker.artifact(128.5))
    said: list[str] = []
    limits = replace(LOOSE, min_accuracy=0.5)
    gates = by_name(judge(registry, candidate, champion, limits, examples(), progress=said.append))
    assert gates["size"].detail == "0.00271 MB, at most 16 MB"
    assert gates["calibration"].detail == (
        "error 0.0136 measured here, at most 0.0500 and 0.0058 by chance; log loss 0.0161, "
        "self-estimated 0.0319; Brier score 0.0076, self-estimated 0.0196, at most 50% more beyond "
        "chance"
    )
    assert gates["accuracy"].detail == "100.00%, at least 50.00%"
    assert gates["against the champion"].detail == (
        "100.00% against 99.20%: +0.80 points (McNemar, exact: p < 0.0001; of 4,000 images 32 "
        "gained, 0 lost); with 95% confidence at worst +0.56, allowed -1.00"
    )
    assert said == [
        f"running {candidate[:12]} over 4,000 test images",
        "measuring latency",
        f"running {champion[:12]} over 4,000 test images",
    ]
    ambitious = replace(LOOSE, must_be_better=True)
    gate = judge(registry, candidate, champion, ambitious, None)[-1]
    assert gate.detail.endswith("; must be better with p below 0.05")
    assert "p < 0.0001; on 4,000 and 4,000 images" in gate.detail
    near = add(registry, maker.artifact(129.5))
    gate = judge(registry, near, champion, LOOSE, None)[-1]
    assert f"p = {gate.values['p_value']:.2g};" in gate.detail


def test_an_int8_model_is_held_to_the_benchmark_of_its_kind(
    registry: Registry, maker: Maker
) -> None:
    def result(name: str, p99_ms: float) -> dict[str, object]:
        points = {"points": [{"batch": 1, "p99_ms": p99_ms}]}
        return {"name": name, "threads": 1, "measurement": points}

    lineage = Lineage(
        benchmark={"results": [result("ONNX simplified", 3.5), result("ONNX INT8", 1.5)]}
    )
    version = add(registry, maker.artifact(quantisation="int8"), lineage)
    gates = judge(registry, version, None, GateLimits(), None, use_benchmark=True)
    assert by_name(gates)["latency"].values["p99_ms"] == 1.5


def test_a_model_that_cannot_run_is_asked_nothing_else(registry: Registry, maker: Maker) -> None:
    broken = add(registry, artifact("no graph at all"))
    gates = judge(registry, broken, None, LOOSE, examples())
    assert [(gate.name, gate.passed) for gate in gates] == [("artifact", False)]
    assert "onnxruntime cannot load it" in gates[0].detail
    good = add(registry, maker.artifact())
    gate = judge(registry, good, broken, LOOSE, examples())[-1]
    assert not gate.passed
    assert "the champion cannot run" in gate.detail


def test_latency_can_come_from_the_benchmark(registry: Registry, maker: Maker) -> None:
    point = {"batch": 1, "p99_ms": 3.5}
    one = {"name": "ONNX simplified", "threads": 1, "measurement": {"points": [point]}}
    others = [{**one, "threads": 2}, {**one, "name": "ONNX INT8"}, {**one, "measurement": None}]
    lineage = Lineage(benchmark={"results": [*others, one]})
    version = add(registry, maker.artifact(), lineage)
    gates = judge(registry, version, None, GateLimits(p99_ms=4), None, use_benchmark=True)
    assert by_name(gates)["latency"].values == {"p99_ms": 3.5, "source": "by its benchmark"}
    bare = add(registry, maker.artifact(127))
    gate = by_name(judge(registry, bare, None, GateLimits(), None, use_benchmark=True))["latency"]
    assert (gate.passed, "without a benchmark" in gate.detail) == (False, True)


def test_latency_is_the_99th_percentile_of_one_image_at_a_time(
    registry: Registry, maker: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest, _ = registry.register(maker.artifact())
    taken: list[float] = []

    class Session:
        def run(self, outputs: None, feeds: dict[str, NDArray[np.uint8]]) -> None:
            (images,) = feeds.values()
            assert images.shape == (1, *manifest.input_size, 3)
            taken.append(0.002 + 0.0001 * (len(taken) % 90))

    monkeypatch.setattr(gates_module, "_ROUND_S", 1.0)
    monkeypatch.setattr(gates_module, "_ROUNDS", 1)
    monkeypatch.setattr(gates_module, "new_session", lambda model, threads: Session())
    with monkeypatch.context() as patch:
        patch.setattr(time, "perf_counter", lambda: sum(taken))
        p99_ms = gates_module.measure_p99(b"", manifest)
    assert p99_ms == pytest.approx(float(np.percentile(taken, 99)) * 1e3, rel=1e-6)
    assert sum(taken[:-1]) < 1.0 <= sum(taken)


def test_answers_of_one_model_alone_are_compared_with_no_others(
    registry: Registry, maker: Maker
) -> None:
    one, other = add(registry, maker.artifact(128.5)), add(registry, maker.artifact(129.5))
    asked, unasked = examine(registry, one, examples()), examine(registry, other, None)
    for pair in ((asked, unasked), (unasked, asked)):
        comparison = gates_module._compare(*pair, alpha=0.05)
        assert comparison
        assert comparison.method == "two proportions"


def test_outcomes_are_measured_once(registry: Registry, maker: Maker) -> None:
    version = add(registry, maker.artifact(131))
    first = examine(registry, version, examples()).outcomes
    assert first
    expected = probabilities(examples().images, 131).argmax(axis=1) == examples().labels
    np.testing.assert_array_equal(first.right, expected)
    (stored,) = registry.store.entries("outcomes/")
    assert stored.size < 1200
    changed = replace(first, accuracy=0.5)
    registry.store.delete(stored.key)
    registry.store.create(stored.key, changed.to_json())
    kept = examine(registry, version, examples()).outcomes
    assert kept
    assert kept.accuracy == 0.5
    np.testing.assert_array_equal(Outcomes.from_json(changed.to_json()).right, first.right)


def test_images_of_another_size_are_left_alone(registry: Registry, maker: Maker) -> None:
    version = add(registry, maker.artifact())
    other = Examples("x", np.zeros((3, 8, 8, 3), np.uint8), np.zeros(3, np.int64))
    assert examine(registry, version, other).outcomes is None


def test_a_dataset_that_is_not_here_is_told(
    registry: Registry,
    maker: Maker,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def unavailable(*_: object) -> None:
        raise UnavailableDataset("photos/ is not here")

    monkeypatch.setattr("ml.registry.outcomes.dataset_of", unavailable)
    manifest, _ = registry.register(maker.artifact())
    assert find_examples(manifest, None) is None
    assert "photos/ is not here" in capsys.readouterr().err


def test_a_file_of_test_images_is_read(registry: Registry, maker: Maker, tmp_path: Path) -> None:
    manifest, _ = registry.register(maker.artifact())
    path, given = tmp_path / "test.npz", examples(10)
    np.savez(path, images=given.images, labels=given.labels)
    read = find_examples(manifest, path)
    assert read
    np.testing.assert_array_equal(read.images, given.images)
    np.savez(path, images=given.images[:, :2], labels=given.labels)
    with pytest.raises(RegistryError, match=r"uint8\(N, 4, 5, 3\)"):
        find_examples(manifest, path)
    np.savez(path, images=given.images, labels=given.labels + 2)
    with pytest.raises(RegistryError, match=re.escape(str(path))):
        find_examples(manifest, path)
    np.savez(path, images=given.images, labels=given.labels, classes=manifest.classes)
    assert find_examples(manifest, path) is not None
    np.savez(path, images=given.images, labels=given.labels, classes=["flat", "round"])
    with pytest.raises(RegistryError, match=r"flat, round: .*round"):
        find_examples(manifest, path)
    path.write_text("no archive")
    for unusable in (path, tmp_path / "missing.npz"):
        with pytest.raises(RegistryError, match=re.escape(str(unusable))):
            find_examples(manifest, unusable)


def test_a_model_of_other_data_than_cifar10_finds_no_images(
    registry: Registry, maker: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KILN_CIFAR10", raising=False)
    manifest, _ = registry.register(maker.artifact())
    assert find_examples(manifest, None) is None


def test_a_model_is_judged_by_the_data_that_its_configuration_names(
    registry: Registry, maker: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = examples(10)
    opened: list[object] = []

    def own(manifest: Manifest, config: object) -> Dataset:
        opened.append(config)
        labelled = Labelled(given.images, given.labels)
        return Dataset("mine", manifest.classes, (4, 5), "c" * 64, lambda part: labelled)

    monkeypatch.setattr(outcomes_module, "dataset_of", own)
    config = {"data": {"_target_": "mine.Pebbles"}}
    manifest, _ = registry.register(maker.artifact(), Lineage(config=config))
    found = find_examples(manifest, None)
    assert found is not None
    assert (opened, found.digest) == ([config], f"{manifest.dataset_digest}/test")
    np.testing.assert_array_equal(found.images, given.images)


def test_own_data_that_is_not_at_hand_leaves_the_recorded_scores(
    registry: Registry, maker: Maker
) -> None:
    lineage = Lineage(config={"data": {"_target_": "nowhere.Pebbles"}})
    manifest, _ = registry.register(maker.artifact(), lineage)
    assert find_examples(manifest, None) is None


def test_a_champion_of_fewer_classes_is_not_asked(
    registry: Registry, maker: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    champion, candidate = add(registry, maker.artifact(130)), add(registry, maker.artifact(128.5))
    manifest = registry.versions.manifest
    monkeypatch.setattr(
        registry.versions,
        "manifest",
        lambda version: (
            replace(manifest(version), classes=("round",))
            if version == champion
            else manifest(version)
        ),
    )
    gate = judge(registry, candidate, champion, LOOSE, examples())[-1]
    assert not gate.passed
    assert "other classes" in gate.detail


def test_a_folder_without_the_dataset_is_told_with_the_way_out(
    registry: Registry, maker: Maker, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("KILN_CIFAR10", str(tmp_path))
    manifest, _ = registry.register(maker.artifact())
    with pytest.raises(RegistryError, match="--no-test-data"):
        find_examples(manifest, None)


@pytest.mark.parametrize(
    "right",
    [
        {"margin": 0.0, "min_accuracy": 0.0, "max_calibration_error": 0.0},
        {"margin": 1.0, "alpha": 0.5, "min_accuracy": 1.0, "max_calibration_error": 1.0},
        {"max_bytes": 1, "p99_ms": 1e-9, "alpha": 1e-9},
    ],
)
def test_limits_may_be_as_strict_and_as_loose_as_can_be(right: dict[str, float]) -> None:
    GateLimits(**right)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "wrong",
    [
        {"margin": 1.001},
        {"alpha": 0.501},
        {"min_accuracy": 1.001},
        {"max_calibration_error": 1.001},
        {"max_bytes": 0},
        {"p99_ms": 0.0},
    ],
)
def test_limits_that_are_just_beyond_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(RegistryError, match=next(iter(wrong)).replace("_", "-")):
        GateLimits(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", [{"margin": -0.1}, {"alpha": 0.0}, {"p99_ms": float("nan")}])
def test_limits_that_make_no_sense_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(RegistryError, match=next(iter(wrong)).replace("_", "-")):
        GateLimits(**wrong)  # type: ignore[arg-type]
