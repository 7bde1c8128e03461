"""The programs behind the actions, started as the rule starts them."""

import subprocess
import sys
from pathlib import Path

import numpy as np
from omegaconf import OmegaConf

from common.programs import python_environment
from ml.artifact.artifact import Artifact, load_artifact
from ml.rules import action
from ml.training.config import composed
from tests.ml.artifact.small_model import exported, sample
from tests.ml.data.small_dataset import write_dataset

REVISION = "0123456789abcdef0123456789abcdef01234567"


def _run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, action.__file__, *map(str, arguments)],
        env=python_environment(),
        capture_output=True,
        text=True,
    )


def _sealed(model: Path, folder: Path, status: str) -> Artifact:
    (folder / "stable-status.txt").write_text(status)
    paths = ("--status", folder / "stable-status.txt", "--output", folder / "sealed.onnx")
    done = _run("ml.rules.seal_model", "--model", model, *paths)
    assert done.returncode == 0, done.stderr
    return load_artifact(folder / "sealed.onnx")


def test_a_release_names_its_revision_and_keeps_its_version(tmp_path: Path) -> None:
    model = exported().path
    status = f"BUILD_USER someone\nSTABLE_GIT_REVISION {REVISION}\nBUILD_EMBED_LABEL \n"
    before, after = load_artifact(model), _sealed(model, tmp_path, status)
    assert after.metadata.git_revision == REVISION
    assert after.metadata.version == before.metadata.version
    images = sample(seed=1).images
    np.testing.assert_array_equal(
        after.predict(images).probabilities, before.predict(images).probabilities
    )


def test_a_workspace_outside_git_is_unknown(tmp_path: Path) -> None:
    assert _sealed(exported().path, tmp_path, "BUILD_USER me\n").metadata.git_revision == "unknown"


def test_a_damaged_model_is_refused_in_one_line(tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.onnx"
    damaged.write_bytes(exported().path.read_bytes()[:-100])
    paths = ("--status", damaged, "--output", tmp_path / "sealed.onnx")
    done = _run("ml.rules.seal_model", "--model", damaged, *paths)
    assert done.returncode == action.REFUSED
    assert "ArtifactError" in done.stderr
    assert "truncated" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "sealed.onnx").exists()


def test_a_bad_override_is_refused_in_one_line(tmp_path: Path) -> None:
    options = ("--preset", "smoke", "--override", "seed=-1", "--output", tmp_path / "config.yaml")
    done = _run("ml.rules.resolve_config", *options)
    assert done.returncode == action.REFUSED
    assert done.stderr.strip() == "ConfigError: seed=-1: expected a value in 0..4294967295"
    assert list(tmp_path.iterdir()) == []


def test_a_dataset_that_is_no_whole_number_of_images_trains_nothing(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "data", train=100, test=100)
    train = dataset / "train.bin"
    train.write_bytes(train.read_bytes()[:-5])
    run = tmp_path / "run"
    run.mkdir()
    cfg = composed(["experiment=smoke", "budget=null", "trainer.precision=32-true"])
    OmegaConf.save(cfg, run / "config.yaml", resolve=True)
    outputs = ("--weights", tmp_path / "weights.pt", "--history", tmp_path / "history.json")
    done = _run("ml.rules.fit_model", "--config", run / "config.yaml", "--train", train, *outputs)
    assert done.returncode == action.REFUSED, done.stderr
    assert "DatasetError" in done.stderr
    assert "Traceback" not in done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"data", "run"}
