"""The true programs of the stages, as DVC runs them, on a few hundred images."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from ml.artifact.artifact import load_artifact
from ml.data.cifar10 import dataset_digest, read_records
from ml.data.packing import read_packed
from ml.pipeline.evaluate import evaluate_run
from ml.pipeline.export import export
from ml.pipeline.layout import DATASET, RUN, STAGES
from ml.pipeline.prepare import prepare
from ml.pipeline.train import train
from ml.runs.datasets import dataset_of_file
from ml.runs.folder import RunFolder
from ml.runs.loading import open_trained
from tests.helpers.program import Program
from tests.ml.data.small_dataset import write_dataset, write_photos
from tests.ml.pipeline.project import Project, make_project

_PARAMS = """\
dataset: ml/data
train:
  seed: 0
  data: {validation_size: 50, batch_size: 10, sizes: [20], size_milestones: []}
  network: {widths: [8, 8, 8]}
  trainer: {accelerator: cpu, max_epochs: 3}
benchmark: {threads: [1], batches: [1, 4], seconds: 0.02}
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A clone whose pipeline ran, every stage with its true program."""
    folder = tmp_path_factory.mktemp("stages")
    dataset = write_dataset(folder / "data", train=300, test=100)
    project = make_project(folder, dataset, real=STAGES)
    project.environment["CXX"] = "no-such-compiler"  # torch.compile would take a minute
    (project.path / "params.yaml").write_text(_PARAMS)
    done = project.dvc("repro")
    assert done.returncode == 0, done.stdout + done.stderr
    assert project.ran() == list(STAGES)
    return project


def _run_folder(project: Project) -> Path:
    return project.path / "pipeline" / "run"


def _start(project: Project, stage: str, *arguments: str) -> Program:
    """The program of a stage as DVC starts it, in a process that is its parent."""
    environment = project.variables() | {"DVC_ROOT": str(project.path), "DVC_STAGE": stage}
    return Program(f"ml.pipeline.{stage}", *arguments, cwd=project.path, env=environment)


def test_the_exported_model_is_the_one_that_was_evaluated(finished: Project) -> None:
    run = _run_folder(finished)
    artifact = load_artifact(run / "model.onnx")
    test = read_records(finished.path / "ml" / "data" / "test.bin")
    images = np.ascontiguousarray(test.images.transpose(0, 2, 3, 1))
    answers = np.load(run / "evaluation" / "probabilities.npy")
    np.testing.assert_allclose(artifact.predict(images).probabilities, answers, atol=1e-4)
    accuracy = float((answers.argmax(1) == test.labels).mean())
    assert accuracy > 0.25  # chance: 0.1
    assert (
        artifact.metadata.test_metrics.accuracy == finished.metric("test")["accuracy"] == accuracy
    )
    assert artifact.metadata.dataset_digest == dataset_digest(finished.path / "ml" / "data")


def test_every_stage_leaves_figures_to_compare(finished: Project) -> None:
    assert finished.metric("data")["test_images"] == 100
    assert finished.metric("data")["test_images_in_train"] == 0
    lines = (_run_folder(finished) / "metrics.jsonl").read_text().splitlines()
    best = max(json.loads(line)["val/accuracy"] for line in lines)
    assert finished.metric("train")["val_accuracy"] == pytest.approx(best, abs=1e-6)
    assert finished.metric("export")["parity"] <= 1e-4
    assert finished.metric("benchmark")["onnx_int8"]["images_per_s"] > 0
    summary = json.loads((_run_folder(finished) / "summary.json").read_text())
    assert summary["test"]["accuracy"] == finished.metric("test")["accuracy"]


def test_the_plots_draw_what_the_stages_wrote(finished: Project) -> None:
    done = finished.dvc("plots", "show")
    assert done.returncode == 0, done.stderr
    page = (finished.path / "dvc_plots" / "index.html").read_text()
    for text in ("train/loss", "val/accuracy", "airplane", "ONNX INT8", "worst_mistakes.png"):
        assert text in page


def test_a_training_without_the_test_set_continues_when_killed_unless_its_code_changed(
    finished: Project, tmp_path: Path
) -> None:
    project = _small(tmp_path)
    prepared = project.path / "pipeline" / "prepared" / "data" / "test.bin"
    prepared.unlink()  # of which there are links
    prepared.write_bytes(b"")  # reading it would be an error
    process = _start(project, "train")
    checkpoint = _run_folder(project) / "checkpoints" / "last.ckpt"
    deadline = time.monotonic() + 300
    while not checkpoint.exists():
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.kill()
    process.communicate()
    for name in ("config.yaml", "metrics.jsonl", "provenance.json"):
        (_run_folder(project) / name).unlink()  # as DVC does with what a stage is to make
    continued = _start(project, "train").communicate(timeout=600)[0]
    assert "Continuing" in continued
    expected = (_run_folder(finished) / "network.pt").read_bytes()
    assert (_run_folder(project) / "network.pt").read_bytes() == expected  # same key, same bytes

    checkpoint.parent.mkdir()
    checkpoint.write_bytes(b"of other code")
    code = project.path / "pipeline" / "prepared" / "code" / "train.txt"
    code.write_text(code.read_text() + "0  ml/other.py\n")
    process = _start(project, "train")
    assert process.stdout is not None
    assert process.stdout.readline().startswith("Training")
    process.kill()
    process.communicate()


def _small(folder: Path) -> Project:
    """A clone that has only been prepared."""
    dataset = write_dataset(folder / "data", train=300, test=100)
    project = make_project(folder, dataset, real=STAGES)
    (project.path / "params.yaml").write_text(_PARAMS)
    process = _start(project, "prepare")
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return project


def test_a_network_answers_the_test_set_once(finished: Project) -> None:
    run = _run_folder(finished)
    before = {path: path.stat().st_mtime_ns for path in (run / "evaluation").iterdir()}
    process = _start(finished, "evaluate", str(run))
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert {path: path.stat().st_mtime_ns for path in (run / "evaluation").iterdir()} == before


def _refusal(project: Project, stage: str, *arguments: str) -> Any:
    process = _start(project, stage, *arguments)
    _, errors = process.communicate(timeout=300)
    assert "Traceback" not in errors
    return process.returncode, errors


def test_a_folder_that_is_no_trained_run_is_refused(finished: Project, tmp_path: Path) -> None:
    status, errors = _refusal(finished, "evaluate", str(tmp_path))
    assert (status, "no trained network" in errors) == (2, True), errors
    (tmp_path / "config.yaml").write_bytes((_run_folder(finished) / "config.yaml").read_bytes())
    (tmp_path / "network.pt").write_bytes(b"damaged")
    status, errors = _refusal(finished, "evaluate", str(tmp_path))
    assert (status, "no readable weights" in errors) == (2, True), errors


_PHOTOS = _PARAMS.replace("ml/data", "photos").replace(
    "{validation_size: 50, batch_size: 10, sizes: [20], size_milestones: []}",
    "{validation_size: 0.2, batch_size: 8, image_size: 16}",
)


def test_a_folder_of_photos_goes_the_whole_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = write_dataset(tmp_path / "data", train=10, test=10)
    project = make_project(tmp_path, dataset, real=STAGES)
    monkeypatch.chdir(project.path)
    monkeypatch.setenv("KILN_CACHE", str(tmp_path / "cache"))
    write_photos(Path("photos"), ("cat", "dog"), each=30)
    Path("params.yaml").write_text(_PHOTOS)
    prepare(project.programs)
    shutil.rmtree("photos")  # from here on what was packed counts
    train(RunFolder(RUN.absolute()), Console(quiet=True))
    evaluated = evaluate_run(open_trained(RUN))
    summary = export(open_trained(RUN))
    assert project.metric("data") == {
        "train_images": 48,
        "train_smallest_class": 24,
        "train_largest_class": 24,
        "test_images": 12,
        "test_smallest_class": 6,
        "test_largest_class": 6,
        "test_images_in_train": 0,
    }
    model = load_artifact(RUN / "model.onnx").metadata
    assert (model.classes, model.input_size) == (("cat", "dog"), (16, 16))
    assert model.dataset_digest == read_packed(DATASET).facts["digest"]
    assert summary["test"]["accuracy"] == evaluated.evaluation.accuracy
    assert dataset_of_file(RUN / "model.onnx", model).read("test").images.shape == (12, 16, 16, 3)
    assert str(tmp_path) not in (RUN / "config.yaml").read_text()  # goes to other machines


def test_a_stage_ends_with_the_process_that_started_it() -> None:
    program = (
        "import os, sys, time; from ml.pipeline.layout import die_with_parent;"
        "die_with_parent(); print(os.getpid(), flush=True); time.sleep(600)"
    )
    with subprocess.Popen(
        ["/bin/sh", "-c", '"$0" -c "$1" & wait', sys.executable, program],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        text=True,
    ) as parent:
        assert parent.stdout is not None
        assert int(parent.stdout.readline()) != parent.pid
        parent.kill()
        assert parent.stdout.read() == ""  # comes when the child, too, has let go of it
