"""The same model, built twice by actions that share nothing but their inputs."""

import json
import os
from pathlib import Path

import pytest

from ml.artifact import quantise
from ml.artifact.artifact import load_artifact
from ml.rules import quantise_model
from ml.runs.provenance import UNKNOWN

NAMES = {
    "config.yaml",
    "drift_reference.json",
    "history.json",
    "metrics.json",
    "model.onnx",
    "model_card.html",
    "network.pt",
}


def _built(variable: str) -> dict[str, Path]:
    listed = os.environ.get(variable)
    if listed is None:
        pytest.skip("the builds are made by Bazel: bazel test //tests/ml/rules:build")
    return {Path(path).name: Path(path) for path in listed.split()}


def test_they_are_two_builds() -> None:
    first, second = _built("FIRST"), _built("SECOND")
    assert first.keys() == second.keys() == NAMES
    assert not {path.resolve() for path in first.values()} & {
        path.resolve() for path in second.values()
    }


@pytest.mark.parametrize("name", sorted(NAMES - {"model_card.html"}))
def test_every_output_has_the_same_bytes(name: str) -> None:
    first, second = _built("FIRST")[name], _built("SECOND")[name]
    assert first.read_bytes() == second.read_bytes()


def test_the_cards_differ_in_the_target_that_they_tell_to_build_alone() -> None:
    first, second = (_built(name)["model_card.html"].read_text() for name in ("FIRST", "SECOND"))
    assert "//tests/ml/rules:first" in first
    assert first.replace("//tests/ml/rules:first", "//tests/ml/rules:second") == second


def test_the_outputs_belong_together() -> None:
    built = _built("FIRST")
    metadata = load_artifact(built["model.onnx"]).metadata
    metrics = json.loads(built["metrics.json"].read_text())
    reference = json.loads(built["drift_reference.json"].read_text())
    assert metadata.version == metrics["model_version"]
    assert metadata.test_metrics.images == metrics["test"]["images"] == reference["images"] == 100
    assert metadata.version in built["model_card.html"].read_text()


def test_a_build_without_stamp_names_no_revision() -> None:
    assert load_artifact(_built("FIRST")["model.onnx"]).metadata.git_revision == UNKNOWN


def test_no_time_is_among_the_metrics() -> None:
    text = _built("FIRST")["metrics.json"].read_text() + _built("FIRST")["history.json"].read_text()
    assert "elapsed" not in text
    assert "training_s" not in text


def test_a_small_model_can_be_made_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built, dataset = _built("FIRST"), _built("DATASET")
    monkeypatch.setattr(quantise, "ACCURACY_TOLERANCE", 0.05)  # one image of 100 is a per cent
    small, metrics = tmp_path / "model.int8.onnx", tmp_path / "metrics.json"
    arguments = {
        "config": built["config.yaml"],
        "model": built["model.onnx"],
        "train": dataset["train.bin"],
        "output": small,
        "metrics": metrics,
    }
    quantise_model.main([f"--{name}={path}" for name, path in arguments.items()])
    metadata = load_artifact(small).metadata
    assert metadata.quantisation == "int8"
    assert json.loads(metrics.read_text())["model_version"] == metadata.version
