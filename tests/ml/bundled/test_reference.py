"""The network that ships with Kiln is whole, and does on the real images what its card says."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ml.artifact.artifact import Artifact, load_artifact
from ml.artifact.evaluation import evaluate
from ml.artifact.quantise import ACCURACY_TOLERANCE
from ml.bundled.adopt import MAX_BYTES, MAX_SMALL_BYTES
from ml.data.cifar10 import locate, read_records
from ml.runs.folder import RunFolder, config_digest

FOLDER = Path(__file__).absolute().parents[3] / "ml" / "bundled"
FILES = {"fp32": "model.onnx", "int8": "model.int8.onnx"}
MACHINE_NOISE = 0.0011  # of accuracy: another CPU may turn around a few of 10,000 answers


@pytest.fixture(scope="module")
def artifacts() -> dict[str, Artifact]:
    return {kind: load_artifact(FOLDER / name, threads=1) for kind, name in FILES.items()}


@pytest.fixture(scope="module")
def metrics() -> dict[str, Any]:
    return dict(json.loads((FOLDER / "metrics.json").read_text()))


@pytest.fixture(scope="module")
def accuracies(artifacts: dict[str, Artifact]) -> dict[str, float]:
    """On all 10,000 test images."""
    records = read_records(locate() / "test.bin")
    images = np.ascontiguousarray(records.images.transpose(0, 2, 3, 1))
    return {
        kind: evaluate(
            artifact.predict(images).probabilities, records.labels, artifact.metadata.classes
        ).accuracy
        for kind, artifact in artifacts.items()
    }


def _card() -> str:
    return (FOLDER / "MODEL_CARD.md").read_text(encoding="utf-8")


def test_files_are_as_small_as_promised() -> None:
    assert (FOLDER / "model.onnx").stat().st_size <= MAX_BYTES
    assert (FOLDER / "model.int8.onnx").stat().st_size <= MAX_SMALL_BYTES


@pytest.mark.parametrize("kind", FILES)
def test_card_and_metrics_are_about_these_very_files(
    kind: str, artifacts: dict[str, Artifact], metrics: dict[str, Any]
) -> None:
    metadata, told = artifacts[kind].metadata, metrics["provenance"][kind]
    assert metadata.version[:12] in _card()
    for name, value in told.items():
        assert getattr(metadata, name) == value
    for digest in (metadata.config_digest, metadata.dataset_digest, metadata.lock_digest):
        assert digest in _card()
    size = (FOLDER / FILES[kind]).stat().st_size
    assert f"{size:,}" in _card()


def test_the_configuration_beside_it_is_the_one_it_was_trained_by(
    artifacts: dict[str, Artifact],
) -> None:
    config = RunFolder(FOLDER).load_config()
    assert config_digest(config) == artifacts["fp32"].metadata.config_digest


@pytest.mark.parametrize("kind", FILES)
def test_it_is_as_often_right_as_it_says(
    kind: str,
    accuracies: dict[str, float],
    artifacts: dict[str, Artifact],
    metrics: dict[str, Any],
) -> None:
    told = metrics["test"] if kind == "fp32" else metrics["int8"]["test"]
    assert artifacts[kind].metadata.test_metrics.accuracy == told["accuracy"]
    assert f"{told['accuracy']:.2%}" in _card()
    assert abs(accuracies[kind] - told["accuracy"]) <= MACHINE_NOISE


def test_int8_loses_at_most_what_the_gate_allows(accuracies: dict[str, float]) -> None:
    assert accuracies["fp32"] - accuracies["int8"] <= ACCURACY_TOLERANCE + 1e-9


def test_figures_of_the_card_are_there() -> None:
    figures = [line.split("(")[1].rstrip(")") for line in _card().splitlines() if line[:2] == "!["]
    assert len(figures) == 3
    for figure in figures:
        assert (FOLDER / figure).read_text().startswith("<?xml")
