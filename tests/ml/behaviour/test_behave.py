"""ml/behaviour/main.py as a user starts it, on a model and a dataset that take milliseconds."""

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from ml.artifact.artifact import load_artifact
from ml.artifact.evaluation import Labelled
from ml.behaviour import main
from ml.behaviour.checks import Check
from ml.behaviour.main import print_checks
from ml.runs import datasets
from ml.runs.datasets import Dataset
from tests.ml.drift.tiny_artifact import CLASSES, scenes, write_tiny_artifact


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model, and a dataset that it labelled itself."""
    artifact = write_tiny_artifact(tmp_path / "model.onnx", scenes(50))
    parts = {}
    for part, seed in (("train", 1), ("test", 2)):
        images = scenes(200, seed)
        parts[part] = Labelled(images, artifact.predict(images).logits.argmax(axis=1))
    parts["test"].images[0] = parts["train"].images[0]
    own = Dataset("scenes", CLASSES, (8, 8), artifact.metadata.dataset_digest, parts.__getitem__)
    monkeypatch.setattr(datasets, "cifar10", lambda config=None: own)
    monkeypatch.setenv("BUILD_WORKING_DIRECTORY", str(tmp_path))
    return tmp_path / "model.onnx"


def run(*arguments: str) -> tuple[int, str]:
    console = Console(file=io.StringIO(), width=200)
    code = main.main([*arguments, "--threads", "1"], console)
    return code, console.file.getvalue()  # type: ignore[attr-defined]


def test_findings_are_printed_and_written(model: Path, tmp_path: Path) -> None:
    code, text = run("--model", str(model), "--calibration-error", "1", "--shift", "0.5")
    assert code == 3
    assert "failed: class balance" in text
    found = json.loads((tmp_path / "behaviour-report/behaviour.json").read_text())
    assert found["data"]["exact_duplicates"] == 1
    assert {check["name"] for check in found["checks"]} >= {"accuracy", "flip", "garbage"}
    page = (tmp_path / "behaviour-report/behaviour.html").read_text()
    assert "data:image/png;base64," in page
    assert "class floor" in page


def test_images_that_training_does_not_mirror_are_not_asked_in_a_mirror(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = replace(datasets.cifar10(), mirrored=False)
    monkeypatch.setattr(datasets, "cifar10", lambda config=None: own)
    _, text = run("--model", str(model), "--no-data")
    assert "flip" not in text
    assert "shift" in text


def test_the_model_is_named_with_or_without_the_option(model: Path) -> None:
    plain, option = (run(*words, "--no-data") for words in ([str(model)], ["--model", str(model)]))
    assert plain == option
    with pytest.raises(SystemExit) as refused:
        run(str(model), "--model", str(model))
    assert refused.value.code == 2


@pytest.mark.parametrize(("limit", "passed"), [("0", True), ("1", False)])
def test_classes_may_differ_in_number_as_far_as_the_limit_says(
    model: Path, limit: str, passed: bool
) -> None:
    _, text = run("--model", str(model), "--class-balance", limit)
    assert ("class balance" not in text.splitlines()[-1]) == passed


def test_a_model_within_its_limits_passes_without_the_data(model: Path) -> None:
    loose = ["--calibration-error", "1", "--shift", "0.5", "--brightness", "0.5", "--garbage", "1"]
    code, text = run("--model", str(model), "--no-data", *loose)
    assert (code, "checks passed" in text) == (0, True)


def test_a_limit_that_is_missed_is_named(model: Path) -> None:
    code, text = run("--model", str(model), "--no-data", "--calibration-error", "0")
    assert code == 3
    assert "calibration error" in text.splitlines()[-1]


def test_class_names_are_no_markup_of_a_terminal(model: Path) -> None:
    console = Console(file=io.StringIO(), width=200)
    check = Check("class floor", 0.5, 0.4, True, "of the weakest", {"[/b]": 0.5})
    print_checks(load_artifact(model).metadata, [check], console)
    assert "[/b] 50.0%" in console.file.getvalue()  # type: ignore[attr-defined]


def test_a_missing_model_is_refused(model: Path) -> None:
    assert run("--model", "missing.onnx")[0] == 2


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"image_size": (32, 32)}, "has 32 × 32 pixels, expected 8 × 8"),
        ({"classes": (*CLASSES, "black")}, "grey, … (5), expected red, green, blue, grey;"),
        ({"digest": "0" * 64}, "has digest 0000"),
    ],
)
def test_a_model_is_not_judged_by_the_data_of_another(
    model: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], reason: str
) -> None:
    other = replace(datasets.cifar10(), **changes)
    monkeypatch.setattr(datasets, "cifar10", lambda config=None: other)
    code, text = run("--model", str(model))
    assert (code, reason in text, text.count("\n")) == (2, True, 1)
