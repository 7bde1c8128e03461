"""ml/drift/detect.py as a user starts it: exit codes, results, and wrong input."""

import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from ml.artifact.evaluation import Labelled
from ml.drift import detect, evaluate
from ml.drift.corruptions import corrupt
from ml.runs.datasets import Dataset
from tests.ml.drift.tiny_artifact import CLASSES, scenes, write_tiny_artifact


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.onnx"
    write_tiny_artifact(path, scenes(2000))
    return path


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BUILD_WORKING_DIRECTORY", str(tmp_path))


def run(*arguments: str) -> tuple[int, str]:
    console = Console(file=io.StringIO(), width=150)
    code = detect.main([*arguments, "--threads", "1"], console)
    return code, console.file.getvalue()  # type: ignore[attr-defined]


def folder(path: Path, images: np.ndarray) -> Path:
    path.mkdir()
    for index, image in enumerate(images):
        Image.fromarray(image).save(path / f"{index}.png")
    return path


def test_fresh_images_are_no_drift_and_noisy_ones_are(model: Path, tmp_path: Path) -> None:
    fresh = scenes(120, seed=1)
    folder(tmp_path / "fresh", fresh)
    folder(tmp_path / "noisy", corrupt(fresh, "gaussian_noise", 3))
    code, text = run("--model", str(model), "--images", "fresh")
    assert (code, "No drift in 19 statistics (120 images)" in text) == (0, True)
    code, text = run("--model", str(model.parent), "--images", "noisy", "--out", "out")
    assert code == 3
    assert "Drift in" in text
    assert "colour_noise" in text
    found = json.loads((tmp_path / "out/drift.json").read_text())
    assert found["verdict"] == "drift"
    assert "colour_noise" in found["drifted"]
    assert found["images"] == 120
    assert all(s["drifted"] == (s["value"] > s["threshold"]) for s in found["statistics"])


def test_the_page_stands_alone_and_names_what_drifted(model: Path, tmp_path: Path) -> None:
    folder(tmp_path / "dark", scenes(60) // 3)
    (tmp_path / "dark" / "bad<.png").write_text("no image")
    code, text = run("--model", str(model), "--images", "dark")
    assert code == 3
    assert "bad<.png: " in text
    page = (tmp_path / "drift-report/drift.html").read_text()
    assert "red mean" in page
    assert "bad&lt;.png" in page
    assert page.count("<svg") == 2
    assert not re.search(r"""(src|href)=["']?(http|//)""", page)
    assert (tmp_path / "drift-report/drift.png").read_bytes().startswith(b"\x89PNG")


def test_few_images_are_too_little_evidence(model: Path, tmp_path: Path) -> None:
    folder(tmp_path / "few", scenes(7))
    code, text = run("--model", str(model), "--images", "few")
    assert code == 4
    assert " 7 images, expected at least 50" in text
    assert json.loads((tmp_path / "drift-report/drift.json").read_text())["statistics"] == []


def test_logged_answers_are_compared_without_images(model: Path, tmp_path: Path) -> None:
    lines = [json.dumps({"label": CLASSES[0], "probability": 0.99})] * 80
    (tmp_path / "log.jsonl").write_text("\n".join(lines))
    code, text = run("--model", str(model), "--predictions", "log.jsonl")
    assert code == 3
    assert "Drift in predicted_class" in text
    assert "red_mean" not in text


def test_the_test_images_can_be_corrupted_first(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = scenes(300, seed=3)
    labels = np.zeros(300, np.int64)
    own = Dataset("scenes", CLASSES, (8, 8), "0" * 64, lambda part: Labelled(images, labels))
    monkeypatch.setattr(detect, "dataset_of_file", lambda path, model: own)
    code, text = run("--model", str(model), "--test-set", "--limit", "200")
    assert (code, "(200 images)" in text) == (0, True)
    code, text = run("--model", str(model), "--test-set", "--corruption", "brightness:5")
    assert (code, "brightness of severity 5" in text) == (3, True)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--model", "missing.onnx", "--images", "x"], "missing.onnx"),
        (["--images", "x"], "--images"),
        (["--cifar10-test"], "CIFAR-10 has the classes airplane"),
        (["--test-set"], "CIFAR-10 has the classes airplane"),
        (["--images", "empty"], "holds no image"),
        (["--images", "broken"], "none of 1 image files can be read"),
        (["--predictions", "none.jsonl"], "cannot be read as a log"),
        (["--test-set", "--corruption", "rain"], "no corruption 'rain'"),
    ],
)
def test_wrong_input_is_refused_with_the_reason(
    model: Path, tmp_path: Path, arguments: list[str], reason: str
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/a.png").write_text("hello")
    chosen = arguments if "--model" in arguments else ["--model", str(model), *arguments]
    code, text = run(*chosen)
    assert code == 2
    assert reason in text.replace("\n", "")
    assert not (tmp_path / "drift-report").exists()


def test_a_file_that_is_no_artifact_is_refused(tmp_path: Path) -> None:
    (tmp_path / "odd.onnx").write_bytes(b"hello")
    code, text = run("--model", "odd.onnx", "--images", ".")
    assert (code, "is refused" in text) == (2, True)


@pytest.mark.parametrize(
    "arguments",
    [[], ["--images", "a", "--cifar10-test"], ["--cifar10-test", "--false-alarm-rate", "2"]],
)
def test_bad_arguments_show_the_usage(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as refusal:
        run(*arguments)
    assert refusal.value.code == 2
    assert "//ml:drift" in capsys.readouterr().err


def test_rates_are_measured_printed_and_written(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, labels = scenes(400, seed=4), np.zeros(400, np.int64)
    own = Dataset("scenes", CLASSES, (8, 8), "0" * 64, lambda part: Labelled(images, labels))
    monkeypatch.setattr(evaluate, "dataset_of_file", lambda path, model: own)
    console = Console(file=io.StringIO(), width=150)
    sizes = ["--sizes", "60", "200", "--clean-windows", "10", "--windows", "5"]
    kinds = ["--corruptions", "noise", "--severities", "5", "--threads", "1"]
    assert evaluate.main(["--model", str(model), *sizes, *kinds], console) == 0
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "gaussian_noise:5" in text
    assert "100.0%" in text
    found = json.loads((tmp_path / "drift-rates/drift_rates.json").read_text())
    assert [(r["condition"], r["size"]) for r in found["rates"]] == [
        ("clean", 60),
        ("clean", 200),
        ("gaussian_noise:5", 60),
        ("gaussian_noise:5", 200),
    ]
    few = ["--clean-windows", "10", "--windows", "5", *kinds]
    assert evaluate.main(["--model", str(model), *few], console) == 0  # a small test set is enough
    found = json.loads((tmp_path / "drift-rates/drift_rates.json").read_text())
    assert {rate["size"] for rate in found["rates"]} == {100}
    console = Console(file=io.StringIO(), width=150)
    assert evaluate.main(["--model", str(model), "--sizes", "300", *kinds], console) == 2
