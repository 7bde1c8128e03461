"""DVC as `bazel run //ml:dvc` starts it, on a clone whose stages are stand-ins: what runs again
when, and what it says when it cannot."""

import hashlib
import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from tests.ml.data.small_dataset import write_dataset, write_photos
from tests.ml.pipeline.project import Project, make_project

ALL = ["prepare", "train", "evaluate", "export", "benchmark"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A committed clone whose pipeline ran once."""
    folder = tmp_path_factory.mktemp("finished")
    project = make_project(folder, write_dataset(folder / "data", train=300, test=100))
    assert repro(project) == ALL
    project.commit()
    return project


@pytest.fixture
def ready(finished: Project, tmp_path: Path) -> Project:
    """A copy of it for one test."""
    project = Project(tmp_path / "clone", tmp_path / "home", finished.programs)
    shutil.copytree(finished.path, project.path, symlinks=True)
    project.home.mkdir()
    return project


@pytest.fixture
def fresh(tmp_path: Path) -> Project:
    return make_project(tmp_path, write_dataset(tmp_path / "data", train=300, test=100))


def repro(project: Project, *arguments: str) -> list[str]:
    """The stages that ran."""
    done = project.dvc("repro", *arguments)
    assert done.returncode == 0, done.stderr
    return project.ran()


def test_nothing_runs_when_nothing_changed(ready: Project) -> None:
    done = ready.dvc("repro")
    assert ready.ran() == []
    assert "Data and pipelines are up to date" in done.stdout


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["ml/training/networks.py"], ALL),  # training is made of it
        (
            ["ml/artifact/evaluation.py"],
            [*ALL[:1], *ALL[2:4]],
        ),  # the network, and so its speed, stays
        (["ml/sweep.py", "README.md", "configs/train.yaml"], ALL[:1]),  # there, a comment
    ],
)
def test_a_change_of_a_file_concerns_the_stages_that_are_made_of_it(
    ready: Project, names: list[str], expected: list[str]
) -> None:
    for name in names:
        with (ready.path / name).open("a") as file:
            file.write("# changed\n")
    assert repro(ready) == expected


def test_a_parameter_concerns_the_stages_that_read_it(ready: Project) -> None:
    assert repro(ready, "-S", "benchmark.seconds=2") == ["benchmark"]


def test_results_parameters_and_plots_of_two_trainings_are_compared(ready: Project) -> None:
    before = ready.metric("test")
    assert repro(ready, "-S", "train.experiment=smoke", "-S", "train.seed=1") == ALL

    metrics = ready.dvc("metrics", "diff").stdout
    assert f"{before['accuracy']}"[:6] in metrics
    assert f"{ready.metric('test')['accuracy']}"[:6] in metrics
    params = ready.dvc("params", "diff").stdout
    assert "train.seed" in params
    assert "data.batch_size" in params  # what the preset means

    done = ready.dvc("plots", "diff")
    assert done.returncode == 0, done.stderr
    page = (ready.path / "dvc_plots" / "index.html").read_text()
    for text in ("Loss by epoch", "share of each class", "this sure", "F1 by class", "latency"):
        assert text in page
    assert '"rev": "HEAD"' in page
    assert '"rev": "workspace"' in page

    # the results of the first training are still in DVC's memory
    assert repro(ready, "-S", "train.experiment=null", "-S", "train.seed=0") == []
    assert ready.metric("test") == before


def test_a_kill_in_the_middle_costs_that_stage_alone(fresh: Project) -> None:
    hold, log = fresh.hold(), fresh.programs / "log"
    process = fresh.start("repro")
    deadline = time.monotonic() + 240
    while "train" not in (log.read_text() if log.exists() else ""):
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    process.kill()
    hold.unlink()
    process.communicate()
    fresh.ran()
    assert repro(fresh) == ALL[1:]


def test_a_push_and_a_pull_bring_every_byte_to_another_clone_and_nothing_to_the_home_folder(
    ready: Project, tmp_path: Path
) -> None:
    ready.environment["KILN_DVC_REMOTE"] = str(tmp_path / "shared")
    assert ready.dvc("push").returncode == 0
    before = _digests(ready.path)
    for folder in (".dvc/cache", ".dvc/tmp", "pipeline/prepared", "pipeline/run"):
        shutil.rmtree(ready.path / folder)
    for name in ("train.bin", "test.bin"):
        (ready.path / "ml" / "data" / name).unlink()
    done = ready.dvc("pull")
    assert done.returncode == 0, done.stderr
    assert _digests(ready.path) == before
    assert repro(ready) == []
    assert list(ready.home.iterdir()) == []


def test_a_folder_of_photos_is_the_dataset_and_its_contents_are_what_counts(fresh: Project) -> None:
    photos = write_photos(fresh.path / "photos", ("cat", "dog"), each=10)
    params = fresh.path / "params.yaml"
    small = "dataset: photos\ntrain: {data: {image_size: 16, batch_size: 8}}"
    params.write_text(re.sub("dataset: (.|\n)*seed: 0", small, params.read_text()))
    for name in ("train.bin", "test.bin"):
        (fresh.path / "ml" / "data" / name).unlink()  # CIFAR-10 is not asked for
    assert fresh.dvc("add", "photos").returncode == 0
    fresh.commit()
    assert repro(fresh) == ALL
    (photos / "cat" / "0.png").rename(photos / "cat" / "renamed.png")
    assert repro(fresh) == ["prepare"]
    assert "photos.dvc" in changed_files(fresh)  # the pin goes along
    (photos / "cat" / "damaged.png").write_bytes(b"no image")
    done = fresh.dvc("repro")
    assert (done.returncode, fresh.ran()) == (1, ["prepare"])
    assert "cat/damaged.png" in done.stderr
    assert "Traceback" not in done.stderr


def changed_files(project: Project) -> str:
    command = ["git", "status", "--short"]
    return subprocess.run(
        command, cwd=project.path, check=True, capture_output=True, text=True
    ).stdout


def _digests(clone: Path) -> dict[str, str]:
    paths = [p for name in ("pipeline", "ml/data") for p in (clone / name).rglob("*.*")]
    return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in paths if p.is_file()}


def test_a_choice_that_makes_no_sense_stops_the_pipeline_before_training(ready: Project) -> None:
    path = ready.path / "params.yaml"
    path.write_text(path.read_text().replace("seed: 0", "seed: one"))
    done = ready.dvc("repro")
    assert done.returncode == 1
    assert "Value 'one' of type 'str' could not be converted to Integer" in done.stderr
    assert "failed to reproduce 'prepare'" in done.stderr
    assert ready.ran() == ["prepare"]
    assert (ready.path / "pipeline" / "run" / "model.onnx").is_file()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["repro", "-S", "train.sed=1"], "Could not override 'train.sed'"),
        (["repro", "--bogus"], "unrecognized arguments: --bogus"),
        (["frobnicate"], "invalid choice"),
    ],
)
def test_wrong_usage_exits_with_two_and_runs_nothing(
    ready: Project, arguments: list[str], complaint: str
) -> None:
    params = (ready.path / "params.yaml").read_bytes()
    done = ready.dvc(*arguments)
    assert done.returncode == 2
    assert complaint in done.stderr
    assert (ready.path / "params.yaml").read_bytes() == params


def test_a_dataset_that_is_not_the_pinned_one_is_left_alone(ready: Project) -> None:
    path, pin = ready.path / "ml/data/train.bin", ready.path / "ml/data/cifar10.dvc"
    path.unlink()
    path.write_bytes(b"mine")
    pinned = pin.read_text()
    done = ready.dvc("repro")
    assert done.returncode == 2
    assert "is not the pinned file" in done.stderr
    assert "Delete it to get the pinned file back" in done.stderr
    assert path.read_bytes() == b"mine"
    assert pin.read_text() == pinned


def test_a_folder_without_dvc_or_git_is_refused_with_the_cure(tmp_path: Path) -> None:
    project = Project(tmp_path / "empty", tmp_path / "home", tmp_path)
    for folder in (project.path, project.home):
        folder.mkdir()
    done = project.dvc("repro")
    assert done.returncode == 2
    assert "DVC repository" in done.stderr
    (project.path / ".dvc").mkdir()
    done = project.dvc("status")
    assert done.returncode == 2
    assert "git init" in done.stderr


def test_help_shows_what_people_do_with_it(tmp_path: Path) -> None:
    project = Project(tmp_path, tmp_path, tmp_path)
    assert "//ml:dvc -- repro -S train.experiment=smoke" in project.dvc("--help").stdout
    assert "--set-param" in project.dvc("repro", "--help").stdout


def test_a_dvc_that_bazel_did_not_start_asks_bazel_for_the_program(fresh: Project) -> None:
    wrapper = fresh.path / "tools" / "bazel"
    wrapper.parent.mkdir(exist_ok=True)
    wrapper.write_text('#!/bin/sh\necho "$@"\n')
    wrapper.chmod(0o755)
    done = subprocess.run(
        ["ml/pipeline/stage", "evaluate", "pipeline/run"],
        cwd=fresh.path,
        env={"PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["run", "//ml/pipeline:evaluate", "--", "pipeline/run"]
