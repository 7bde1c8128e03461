"""Cross-validation: its folds, its arithmetic, and that it goes on where it was killed."""

import io
import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from ml import stages
from ml.commands.cross_validate import (
    cross_validate,
    folder_of,
    print_results,
    run_entry,
    score,
    scores,
)
from ml.data.cifar10 import stratified_fold
from ml.data.datamodule import CIFAR10
from ml.runs.folder import RunFolder
from ml.training.config import composed
from ml.training.launch import BAD_INPUT, INTERRUPTED
from tests.helpers.program import Program
from tests.ml.data.small_dataset import write_dataset, write_photos
from tests.ml.workspace import SMALL, Workspace


@pytest.fixture
def configuration(tmp_path: Path) -> DictConfig:
    dataset = write_dataset(tmp_path / "dataset", train=120, test=50)
    fixed = (f"data.folder={dataset}", f"paths.runs={tmp_path / 'runs'}", "trainer.max_epochs=2")
    return composed([*SMALL, *fixed, "name=small", "trainer.precision=32-true"])


def test_every_image_is_validated_on_once_and_classes_are_shared_out() -> None:
    labels = np.repeat(np.arange(3), (40, 11, 4))
    np.random.default_rng(0).shuffle(labels)
    folds = [stratified_fold(labels, fold, 4, seed=1) for fold in range(4)]
    together = np.concatenate([validation for _, validation in folds])
    assert sorted(together) == list(range(55))
    for train, validation in folds:
        assert sorted([*train, *validation]) == list(range(55))
        assert list(np.bincount(labels[validation], minlength=3)) in (
            [10, 3, 1],
            [10, 2, 1],
        )
    again = stratified_fold(labels, 0, 4, seed=1)
    assert np.array_equal(folds[0][1], again[1])
    assert not np.array_equal(folds[0][1], stratified_fold(labels, 0, 4, seed=2)[1])


def test_the_interval_is_students_with_the_variance_of_nadeau_and_bengio() -> None:
    found = score([0.7, 0.8, 0.9])  # t of two degrees of freedom is 4.3027, their deviation 0.1
    half = 4.3027 * 0.1 * math.sqrt(1 / 3 + 1 / 2)
    assert [found.mean, found.deviation] == pytest.approx([0.8, 0.1])
    assert [found.low, found.high] == pytest.approx([0.8 - half, 0.8 + half])
    assert score([0.5, 0.5]).high == 0.5


def test_the_interval_ends_where_the_metric_does(tmp_path: Path) -> None:
    best = {"callbacks": {"checkpoint": {"mode": "max"}}}
    cfg = OmegaConf.create({"monitor": "val/accuracy"} | best)
    runs = []
    for fold, share in enumerate((0.9, 1.0, 1.0)):
        run = RunFolder(tmp_path / str(fold))
        run.path.mkdir()
        row = {"epoch": 1, "val/accuracy": share, "val/loss": 2 * share - 1.75, "val/own": share}
        run.metrics.write_text(json.dumps(row | {"val/macro_f1": 1 - share}) + "\n")
        runs.append(run)
    found = scores(cfg, runs)["last"]
    assert (found["val/accuracy"].low < 0.9, found["val/accuracy"].high) == (True, 1.0)
    assert (found["val/macro_f1"].low, found["val/loss"].low) == (0.0, 0.0)
    assert found["val/own"].high > 1  # nothing is known of a metric of the user's own


def test_a_killed_cross_validation_continues_and_never_reads_the_test_part(
    configuration: DictConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = CIFAR10.read
    parts = []

    def noted(self: CIFAR10, part: str) -> Any:
        parts.append(part)
        return read(self, part)

    monkeypatch.setattr(CIFAR10, "read", noted)
    train, trained = stages.train, []

    def killed_in_the_second(cfg: DictConfig, run: RunFolder, *rest: Any) -> Any:
        trained.append(run.path.name)
        if run.path.name == "2" and trained.count("2") == 1:
            raise KeyboardInterrupt
        return train(cfg, run, *rest)

    monkeypatch.setattr(stages, "train", killed_in_the_second)
    said = Console(file=io.StringIO(), width=140)
    with pytest.raises(SystemExit) as leaving:
        cross_validate(configuration, 3, said)
    assert leaving.value.code == INTERRUPTED
    first = folder_of(configuration, 3) / "folds" / "1" / "summary.json"
    written = first.stat().st_mtime_ns
    folder = cross_validate(configuration, 3, said)

    assert trained == ["1", "2", "2", "3"]
    assert first.stat().st_mtime_ns == written
    assert set(parts) == {"train"}
    facts = json.loads((folder / "cross_validation.json").read_text())
    last = [_rows(folder / run)[-1]["val/accuracy"] for run in facts["runs"]]
    assert facts["last"]["val/accuracy"]["values"] == last
    assert facts["last"]["val/accuracy"]["mean"] == pytest.approx(sum(last) / 3)
    best = [json.loads((folder / run / "summary.json").read_text()) for run in facts["runs"]]
    assert facts["best"]["val/accuracy"]["values"] == [one["val/accuracy"] for one in best]
    assert all("test" not in one for one in best)
    assert OmegaConf.load(folder / "folds" / "2" / "config.yaml").fold == [1, 3]
    assert (folder / "cross_validation.png").read_bytes().startswith(b"\x89PNG")
    print_results(folder, said)


def _rows(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_another_value_is_another_folder(configuration: DictConfig) -> None:
    other = configuration.copy()
    other.seed = 1
    places = {folder_of(configuration, 3), folder_of(configuration, 4), folder_of(other, 3)}
    assert len(places) == 3


@pytest.mark.parametrize("folds", ["1", "21", "some", "-3"])
def test_a_number_of_folds_that_makes_no_sense_is_refused(folds: str) -> None:
    with pytest.raises(SystemExit) as left:
        run_entry([f"--folds={folds}"])
    assert left.value.code == BAD_INPUT


def test_hydra_gets_its_options_in_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    given = ["--config-dir", "mine/configs", "data=shapes"]
    monkeypatch.setattr("ml.commands.cross_validate.run_application", lambda *_: None)
    for arguments in ([*given, "--folds", "2"], ["--folds=2", *given]):
        monkeypatch.setattr("sys.argv", ["cross_validate"])
        run_entry(arguments)
        assert sys.argv == ["cross_validate", *given]


@pytest.mark.parametrize("override", ["resume=auto", "data.batchsize=10", "conclude=true"])
def test_overrides_that_make_no_sense_here_are_refused(tmp_path: Path, override: str) -> None:
    workspace = Workspace(tmp_path)
    done = Program(
        "ml.commands.cross_validate", override, cwd=tmp_path, env=workspace.environment
    ).finish()
    assert done.returncode == BAD_INPUT, done.stderr
    assert override.partition("=")[0].rpartition(".")[2] in done.stderr
    is_mistyped = override.startswith("data.")
    assert ("data.batchsize: did you mean data.batch_size?" in done.stderr) == is_mistyped
    assert not (tmp_path / "multirun").exists()


def test_a_damaged_dataset_is_refused_before_a_fold_begins(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    damaged = write_dataset(tmp_path / "damaged", train=100, test=100)
    (damaged / "train.bin").write_bytes((damaged / "train.bin").read_bytes()[:-5])
    one_class = write_photos(tmp_path / "photos", ["cat"], each=20).as_posix()
    for overrides in (
        ["data.folder=damaged"],
        ["data=folder", f"data.folder={one_class}"],
        ["data=folder", "data.folder=nowhere"],
    ):
        done = Program(
            "ml.commands.cross_validate", *overrides, cwd=tmp_path, env=workspace.environment
        ).finish()
        assert done.returncode == BAD_INPUT, (overrides, done.stderr)
        assert "Traceback" not in done.stderr
        assert not list(tmp_path.glob("multirun/*/folds/*/checkpoints/*"))
