"""bazel run //ml:retrain from captures to the champion, on images whose class shows in their
colour: the camera changes, and labels tell what is right."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.captures import Capture, Captures, Label
from common.objects import FolderStore
from ml.artifact.artifact import Artifact, load_artifact
from ml.data.cifar10 import CLASSES, read_records
from ml.registry.registry import CHAMPION, Registry
from ml.registry.submission import read_submission
from tests.helpers.program import Program
from tests.ml.data.small_dataset import write_dataset
from tests.ml.labels.store import NOON, png, request_id
from tests.ml.workspace import SMALL, Workspace

OVERRIDES = (
    "data.batch_size=20",
    "data.repeat=3",
    "trainer.max_epochs=8",
    "trainer.accelerator=cpu",
    "data.near_duplicates=keep",  # all images of a class are alike
)


class Loop:
    """A workspace whose champion answers traffic of another camera."""

    def __init__(self, path: Path, finished: Workspace) -> None:
        self.path = path
        self.dataset = finished.path / "dataset"
        shutil.copytree(finished.path / "runs", path / "runs")
        [self.run_folder] = (path / "runs").iterdir()
        self.registry = Registry.open(str(path / ".kiln" / "registry"))
        submission = read_submission(self.run_folder)
        manifest, _ = self.registry.register(submission.data, submission.lineage)
        self.registry.promote(manifest.version)
        self.champion = manifest.version
        self.captures = Captures(FolderStore(path / ".kiln" / "captures"))

    def answer(self, images: np.ndarray) -> None:
        """The champion answers (N, H, W, 3) images, and all is captured."""
        artifact: Artifact = load_artifact(self.run_folder / "model.onnx")
        rows = [
            Capture(
                request_id(n), 0, NOON + n, self.champion, tuple(map(float, p)), 0.5, png(image)
            )
            for n, (image, p) in enumerate(
                zip(images, artifact.predict(images).probabilities, strict=True)
            )
        ]
        assert self.captures.write("w", 0, rows, NOON + len(rows))

    def label(self, labels: np.ndarray) -> None:
        self.captures.say_together(
            [
                Label(request_id(n), 0, CLASSES[label], "ada", NOON + 1e4, 0.5)
                for n, label in enumerate(labels)
            ]
        )

    def retrain(self, *arguments: str) -> tuple[int, dict[str, Any]]:
        environment = {
            **os.environ,
            "BUILD_WORKSPACE_DIRECTORY": str(self.path),
            "BUILD_WORKING_DIRECTORY": str(self.path),
            "KILN_CIFAR10": str(self.dataset),
            "KILN_CACHE": str(self.path / "cache"),
            "PYTHONPATH": os.pathsep.join(sys.path),
            "OMP_NUM_THREADS": "1",
        }
        for name in ("KILN_CAPTURE", "KILN_REGISTRY", "KILN_MODEL_KEY", "KILN_SIGNING_KEY"):
            environment.pop(name, None)
        done = Program("ml.retrain.main", *arguments, cwd=self.path, env=environment).finish()
        records = sorted((self.path / ".kiln/retrain").glob("*/record.json"))
        assert done.returncode not in (1, 2) or not records or "Traceback" not in done.stderr, (
            done.stderr
        )
        self.said = done.stdout + done.stderr
        return done.returncode, json.loads(records[-1].read_text()) if records else {}


@pytest.fixture(scope="module")
def champion(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A workspace with a run that has learnt its colours."""
    path = tmp_path_factory.mktemp("champion")
    workspace = Workspace(path, write_dataset(path / "dataset", train=600, test=200))
    done = workspace.run(*SMALL, "trainer.max_epochs=16")
    assert done.returncode == 0, done.stderr
    return workspace


def other_camera(folder: Path, count: int) -> tuple[np.ndarray, np.ndarray]:
    """(N, 32, 32, 3) images and their classes; every other one inverted, red and blue exchanged."""
    write_dataset(folder, train=count, test=10, seed=count)
    records = read_records(folder / "train.bin")
    images = records.images.transpose(0, 2, 3, 1).copy()
    images[::2] = 255 - images[::2, :, :, ::-1]
    return images, records.labels


@pytest.fixture
def loop(tmp_path: Path, champion: Workspace) -> Loop:
    return Loop(tmp_path, champion)


def steps(record: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {step["name"]: step["facts"] for step in record["steps"]}


def test_the_next_model_learns_from_labels_and_takes_the_champions_place(
    loop: Loop, tmp_path: Path
) -> None:
    images, labels = other_camera(tmp_path / "camera", 400)
    loop.answer(images)
    code, record = loop.retrain("--dry-run", "--always")
    assert (code, record["decision"]) == (4, "more labels")  # there are none
    loop.label(labels)
    code, record = loop.retrain("--dry-run", "--always", "data.near_duplicates=keep")
    assert (code, record["decision"]) == (0, "would be promoted"), loop.said
    assert steps(record)["estimate"]["shortfall"] > 0.1
    release = "cp $KILN_MODEL released.onnx && echo $KILN_MODEL_VERSION > version"
    code, record = loop.retrain(
        "--always",
        "--margin=0.1",
        "--p99-ms=1000",
        "--max-calibration-error=0.3",
        "--deploy",
        release,
        "--card",
        "card.md",
        *OVERRIDES,
    )
    assert (code, record["decision"]) == (0, "promoted"), loop.said
    champion = loop.registry.resolve(CHAMPION)
    assert champion == steps(record)["register"]["version"] != loop.champion
    assert (tmp_path / "version").read_text().strip() == champion
    manifest = loop.registry.versions.manifest(champion)
    assert [parent.version for parent in manifest.lineage.parents] == [loop.champion]
    fresh, truth = other_camera(tmp_path / "fresh", 100)
    before, after = (
        (load_artifact(path).predict(fresh).probabilities.argmax(1) == truth).mean()
        for path in (loop.run_folder / "model.onnx", tmp_path / "released.onnx")
    )
    assert after > before + 0.15


def test_flipped_labels_promote_nothing(loop: Loop, tmp_path: Path) -> None:
    images, labels = other_camera(tmp_path / "camera", 400)
    random = np.random.default_rng(0)
    wrong = np.where(random.random(400) < 0.2, (labels + random.integers(1, 10, 400)) % 10, labels)
    loop.answer(images)
    loop.label(wrong)
    code, record = loop.retrain(
        "--always", "--margin=0.1", "--p99-ms=1000", "--no-promote", "--dry-run", *OVERRIDES
    )
    assert (code, record["decision"]) == (5, "check labels"), loop.said
    assert len(steps(record)["label noise"]["suspects"]) > 5
    assert loop.registry.resolve(CHAMPION) == loop.champion


def test_without_need_nothing_is_done(loop: Loop, tmp_path: Path) -> None:
    records = read_records(loop.dataset / "test.bin")
    loop.answer(np.ascontiguousarray(records.images.transpose(0, 2, 3, 1)))
    loop.label(records.labels)
    code, record = loop.retrain("--shortfall", "0.2")
    assert (code, record["decision"]) == (3, "keep"), loop.said
    assert not [step for step in record["steps"] if step["name"] == "train"]


def test_what_cannot_be_used_is_said_with_code_2(loop: Loop) -> None:
    assert loop.retrain("--registry", str(loop.path / "empty"))[0] == 2
    assert "champion" in loop.said
    assert loop.retrain("--captures", "gs://bucket")[0] == 2
