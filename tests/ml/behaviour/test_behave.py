"""ml/behaviour/main.py as a user starts it, on a model and a dataset that take milliseconds."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from ml.artifact.evaluation import Labelled
from ml.behaviour import main
from tests.ml.drift.tiny_artifact import scenes, write_tiny_artifact


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model, and a dataset that it labelled itself."""
    artifact = write_tiny_artifact(tmp_path / "model.onnx", scenes(50))
    parts = {}
    for part, seed in (("train", 1), ("test", 2)):
        images = scenes(200, seed)
        parts[part] = Labelled(images, artifact.predict(images).logits.argmax(axis=1))
    parts["test"].images[0] = parts["train"].images[0]
    monkeypatch.setattr(main, "cifar10", parts.__getitem__)
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
    assert "1 of 200 test images are in the training set byte by byte" in text
    found = json.loads((tmp_path / "behaviour-report/behaviour.json").read_text())
    assert found["data"]["exact_duplicates"] == 1
    assert {check["name"] for check in found["checks"]} >= {"accuracy", "flip", "garbage"}
    page = (tmp_path / "behaviour-report/behaviour.html").read_text()
    assert "data:image/png;base64," in page
    assert "class floor" in page


def test_a_model_within_its_limits_passes_without_the_data(model: Path) -> None:
    loose = ["--calibration-error", "1", "--shift", "0.5", "--brightness", "0.5", "--garbage", "1"]
    code, text = run("--model", str(model), "--no-data", *loose)
    assert (code, "checks passed" in text) == (0, True)


def test_a_limit_that_is_missed_is_named(model: Path) -> None:
    code, text = run("--model", str(model), "--no-data", "--calibration-error", "0")
    assert code == 3
    assert "calibration error" in text.splitlines()[-1]


def test_a_model_of_another_size_or_a_missing_one_is_refused(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("--model", "missing.onnx")[0] == 2
    large = Labelled(np.zeros((4, 32, 32, 3), np.uint8), np.zeros(4, np.int64))
    monkeypatch.setattr(main, "cifar10", lambda part: large)
    code, text = run("--model", str(model))
    assert (code, "not (32, 32)" in text) == (2, True)


def test_a_model_of_fewer_classes_is_refused(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    many = Labelled(scenes(12), np.arange(12))
    monkeypatch.setattr(main, "cifar10", lambda part: many)
    code, text = run("--model", str(model))
    assert (code, "knows 4 classes" in text) == (2, True)
