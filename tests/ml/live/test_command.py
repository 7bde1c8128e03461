"""//ml:live: captured answers of a tiny model, with and without labels, drifted and not."""

import io
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from common.captures import Capture, Captures, Label, sampling_probability
from common.objects import FolderStore
from infra.observability.catalogue import load
from ml.artifact.artifact import Artifact
from ml.artifact.evaluation import Labelled
from ml.live import recalibration
from ml.live.main import BAD_INPUT, BELOW, NOTHING, main
from ml.live.quality import Model
from ml.live.report import cloudwatch_data
from ml.registry.explanation import read_summary
from tests.ml.drift.tiny_artifact import CLASSES, scenes, write_tiny_artifact

NOW = 1_790_000_000.0
Run = Callable[..., int]


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return write_tiny_artifact(tmp_path_factory.mktemp("model") / "model.onnx", scenes(2000))


@pytest.fixture
def captures(tmp_path: Path) -> Captures:
    return Captures(FolderStore(tmp_path / "captures"))


@pytest.fixture
def run(tmp_path: Path, artifact: Artifact, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs the command on the captures; validation images are scenes with the model's own answers,
    a tenth of them wrong."""
    model = tmp_path / "model.onnx"
    write_tiny_artifact(model, scenes(2000))

    def held_out(_: Model) -> Labelled:
        images = scenes(300, seed=9)
        labels = artifact.predict(images).probabilities.argmax(axis=1)
        labels[::10] = (labels[::10] + 1) % len(CLASSES)
        return Labelled(images, labels)

    monkeypatch.setattr(Model, "held_out", held_out)
    monkeypatch.setattr(recalibration, "COPIES_OF_EACH", 4)

    def call(*arguments: str) -> int:
        places = {"captures": "captures", "registry": "registry", "cache": "cache"}
        options = [f"--{name}={tmp_path / folder}" for name, folder in places.items()]
        return main([*options, f"--model={model}", *arguments], Console(file=io.StringIO()))

    return call


def capture(
    captures: Captures, artifact: Artifact, images: np.ndarray, seed: int = 0, hours: float = 30
) -> list[Capture]:
    """Answers over some hours, of which unsure ones were kept more often."""
    random = np.random.default_rng(seed)
    answers = artifact.predict(images).probabilities
    rows = []
    for number, (image, p) in enumerate(zip(images, answers, strict=True)):
        kept = sampling_probability(p.tolist(), 0.5, 1.0)
        if random.random() < kept:
            file = io.BytesIO()
            Image.fromarray(image).save(file, "PNG")
            rows.append(
                Capture(
                    f"{seed:016x}{number:016x}",
                    0,
                    NOW + 3600 * hours * number / len(images),
                    artifact.metadata.version,
                    tuple(p.tolist()),
                    kept,
                    file.getvalue(),
                )
            )
    captures.write(f"writer{seed}", 0, rows, NOW)
    return rows


def label(captures: Captures, rows: list[Capture], wrong: float, propensity: float | None) -> None:
    random = np.random.default_rng(1)
    captures.say_together(
        [
            Label(
                row.request_id,
                row.index,
                CLASSES[(row.answer + int(random.random() < wrong)) % len(CLASSES)],
                "ann",
                NOW,
                propensity,
            )
            for row in rows
        ]
    )


def test_without_labels_it_is_expected_from_probabilities_and_the_recalibration_is_kept(
    run: Run,
    captures: Captures,
    artifact: Artifact,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = capture(captures, artifact, scenes(600, seed=5))
    assert run("--json", "--margin=0.1") in (0, BELOW)
    (found,) = json.loads(capsys.readouterr().out)
    assert found["all"]["rows"] == len(rows)
    assert found["all"]["answers"] == pytest.approx(600, rel=0.1)
    assert found["all"]["recalibrated"]
    assert found["all"]["expected"]["low"] < 0.9 < found["all"]["expected"]["high"] + 0.03
    assert found["all"]["labelled"] is None
    assert sum(window["rows"] for window in found["windows"]) == len(rows)
    version = artifact.metadata.version
    kept = (tmp_path / "cache" / f"{version}.npz").read_bytes()
    assert run("--json") in (0, BELOW)
    assert (tmp_path / "cache" / f"{version}.npz").read_bytes() == kept
    summary = read_summary(version, tmp_path / "cache")
    assert summary is not None
    assert summary.expected.rows == len(rows)
    assert summary.text.startswith("~ ")


def test_labels_tell_that_the_promise_is_broken(
    run: Run,
    captures: Captures,
    artifact: Artifact,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = capture(captures, artifact, scenes(900, seed=5))
    label(captures, rows, 0.6, 1.0)
    page, picture = tmp_path / "live.html", tmp_path / "live.png"
    assert run("--plain", f"--html={page}", f"--png={picture}") == BELOW
    assert run("--plain", "--json") == BELOW
    (found,) = json.loads(capsys.readouterr().out)
    labelled = found["all"]["labelled"]
    assert labelled["rows"] == len(rows)
    assert labelled["accuracy"]["low"] < 0.4 < labelled["accuracy"]["high"]
    assert found["says"] == "below the promise"
    assert found["notes"]
    text = page.read_text()
    assert "below the promise" in text
    assert "<svg" in text
    assert " src=" not in text
    assert "<link" not in text
    with Image.open(picture) as image:
        assert image.size[0] > 1000
    summary = read_summary(artifact.metadata.version, tmp_path / "cache")
    assert summary is not None
    assert summary.labelled is not None
    assert summary.says == "below the promise"


def test_drift_is_marked_where_it_began(
    run: Run, captures: Captures, artifact: Artifact, capsys: pytest.CaptureFixture[str]
) -> None:
    bright = np.clip(scenes(800, seed=6).astype(int) + 60, 0, 255).astype(np.uint8)
    images = np.concatenate([scenes(800, seed=5), bright])
    capture(captures, artifact, images)
    assert run("--plain", "--json") in (0, BELOW)
    (found,) = json.loads(capsys.readouterr().out)
    marks = [bool(window["drifted"]) for window in found["windows"]]
    assert len(marks) > 3
    assert marks[0] is False
    assert marks[-1] is True
    assert "red_mean" in found["all"]["drifted"]


def test_a_version_whose_model_is_nowhere_is_shown_without_a_promise(
    run: Run, captures: Captures, artifact: Artifact, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = capture(captures, artifact, scenes(100, seed=5))
    other = Capture("f" * 32, 0, NOW + 10**6, "c" * 64, rows[0].probabilities, 1.0, rows[0].image)
    captures.write("other", 0, [other], NOW + 10**6)
    assert run("--plain", "--json") == 0
    last, first = json.loads(capsys.readouterr().out)
    assert (last["version"], last["promise"], last["all"]["rows"]) == ("c" * 64, None, 1)
    assert first["promise"] is not None


def test_images_that_are_none_are_counted(
    run: Run, captures: Captures, artifact: Artifact, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = capture(captures, artifact, scenes(100, seed=5))
    broken = Capture("e" * 32, 0, NOW, rows[0].model_version, rows[0].probabilities, 1.0, b"?")
    captures.write("broken", 0, [broken], NOW)
    run("--plain", "--json")
    (found,) = json.loads(capsys.readouterr().out)
    assert found["all"]["rows"] == len(rows)
    assert any("1" in note for note in found["notes"])


def test_without_captures_or_with_bad_input_nothing_is_judged(
    run: Run, captures: Captures, artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT", raising=False)
    assert run() == NOTHING
    capture(captures, artifact, scenes(60, seed=5))
    assert run("--plain", "--since=1h") == (NOTHING if time.time() > NOW + 40 * 3600 else 0)
    assert run("--plain", "--version=abcd") == BAD_INPUT
    assert run("--model=/nowhere/model.onnx") == BAD_INPUT
    assert run("--plain", "--otlp") == BAD_INPUT
    with pytest.raises(SystemExit) as error:
        run("--since=yesterday")
    assert error.value.code == BAD_INPUT


def test_metrics_are_those_of_the_catalogue(
    run: Run, captures: Captures, artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = capture(captures, artifact, scenes(300, seed=5))
    label(captures, rows, 0.0, 0.5)
    sent: list[dict[str, object]] = []

    class Client:
        def put_metric_data(self, Namespace: str, MetricData: list[dict[str, object]]) -> None:
            sent.extend(MetricData)

    monkeypatch.setattr("boto3.client", lambda _: Client())
    assert run("--plain", "--cloudwatch") == 0
    ours = {metric.name: metric for metric in load().metrics if metric.owner == "live"}
    seen = {}
    for datum in sent:
        dimensions = {d["Name"]: d["Value"] for d in datum["Dimensions"]}  # type: ignore[attr-defined]
        assert dimensions.pop("service.name") == "kiln"
        seen[datum["MetricName"]] = tuple(dimensions)
    assert seen == {name: metric.labels for name, metric in ours.items()}
    assert cloudwatch_data([]) == []
