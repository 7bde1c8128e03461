"""Trainings that cannot go on: a loss that is no number, a disk without room; and what is left."""

import errno
import io
import json
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from torch import Tensor

from common.lightning import LightningModule, Trainer, lightning
from ml import stages
from ml.commands.cross_validate import cross_validate
from ml.runs.folder import RunFolder, create_run, open_run, read_rows
from ml.runs.provenance import read_provenance
from ml.training import fitting, launch
from ml.training.config import DivergedError, resolved
from ml.training.launch import DIVERGED, INTERRUPTED, UNWRITTEN, explained
from ml.training.module import EpochScores
from tests.ml.data.small_dataset import write_dataset
from tests.ml.training.plain_network import PlainNetwork

_SMALL = (
    *("data.validation_size=50", "data.batch_size=10", "data.sizes=[16]", "conclude=false"),
    *("data.size_milestones=[]", "trainer.accelerator=cpu", "trainer.max_epochs=3"),
    *("trainer.precision=32-true", "callbacks.system=null", "callbacks.progress=null"),
    *("optimizer=sgd", "optimizer.lr=0.01"),
)


class Fragile(PlainNetwork):
    """Answers with what is no number, from a given step on."""

    def __init__(self, classes: int = 10, steps: int = 0, **_: Any) -> None:
        super().__init__(classes)
        self.steps, self.seen = steps, 0

    def forward(self, images: Tensor) -> Tensor:
        logits = super().forward(images)
        self.seen += self.training
        return logits * float("nan") if self.training and self.seen > self.steps else logits


class NotANumber(lightning.Callback):
    """Logs ``own/metric``, which is not a number in the second epoch."""

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        pl_module.log("own/metric", float("nan") if trainer.current_epoch else 0.5)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_dataset(tmp_path / "dataset", train=250, test=50)


def _cfg(folder: Path, *overrides: str, network: str = "Fragile") -> DictConfig:
    target = f"network._target_=tests.ml.training.test_broken_off.{network}"
    return resolved([*_SMALL, target, f"data.folder={folder}", *overrides])


def _cfg_with(folder: Path, callback: str, *overrides: str) -> DictConfig:
    target = f"+callbacks.more.own._target_=tests.ml.training.test_broken_off.{callback}"
    return _cfg(folder, target, *overrides, network="PlainNetwork")


def _strict(path: Path) -> list[dict[str, float]]:
    def refuse(name: str) -> float:
        raise AssertionError(f"{name} is no JSON")

    return [json.loads(line, parse_constant=refuse) for line in path.read_text().splitlines()]


@pytest.mark.parametrize(("steps", "epochs"), [(0, 0), (7, 0), (27, 1)])
def test_a_loss_that_is_no_number_stops_at_the_very_step(
    folder: Path, tmp_path: Path, steps: int, epochs: int
) -> None:
    cfg = _cfg(folder, f"+network.steps={steps}")
    run = open_run(tmp_path / "run", cfg)
    with pytest.raises(DivergedError, match=f"step {steps + 1}:"):
        stages.train(cfg, run, Console(quiet=True))
    assert len(_strict(run.metrics)) == epochs
    assert run.last_checkpoint.exists() == bool(epochs)


def test_the_command_tells_what_diverged_by_an_exit_code_and_what_is_left(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cfg = _cfg(folder, "+network.steps=27")
    run = open_run(tmp_path / "run", cfg)
    with pytest.raises(SystemExit) as leaving, explained(run):
        stages.train(cfg, run, Console(quiet=True))
    errors = capsys.readouterr().err
    assert leaving.value.code == DIVERGED
    assert "checkpoints/best.ckpt, checkpoints/last.ckpt; " in errors
    assert "learning rate" in errors
    assert "mean and std" in errors


def test_a_metric_of_ones_own_that_is_no_number_is_left_out_of_the_record(
    folder: Path, tmp_path: Path
) -> None:
    cfg = _cfg_with(folder, "NotANumber")
    run = open_run(tmp_path / "run", cfg)
    stages.train(cfg, run, Console(quiet=True))
    assert [row.get("own/metric") for row in _strict(run.metrics)] == [0.5, None, None]
    cfg = _cfg_with(
        folder,
        "NotANumber",
        "monitor=own/metric",
        "callbacks.checkpoint.mode=max",
    )
    run = open_run(tmp_path / "judged", cfg)
    with pytest.raises(DivergedError, match=r"own/metric.* nan .*epoch 2"):
        stages.train(cfg, run, Console(quiet=True))
    assert len(_strict(run.metrics)) == 2


@contextmanager
def little_room(size: int) -> Iterator[None]:
    """Bounds the size of files, also of the one that pytest writes to, so for the block alone.

    Python is told of it as of a full disk, by an error of a write.
    """
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


class LessRoom(lightning.Callback):
    """Takes the room away after the first epoch."""

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.current_epoch == 1:
            most = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
            resource.setrlimit(resource.RLIMIT_FSIZE, (600, most))


class ReadOnly(lightning.Callback):
    """A file system that is mounted anew, read-only, in the second epoch; as root may write into
    any folder, only what the system would say is said."""

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.current_epoch == 1:
            raise OSError(errno.EROFS, "Read-only file system", str(trainer.default_root_dir))


def test_a_run_folder_that_has_become_read_only_is_one_line_with_what_was_saved(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cfg = _cfg_with(folder, "ReadOnly")
    run = open_run(tmp_path / "run", cfg)
    with pytest.raises(SystemExit) as leaving, explained(run):
        stages.train(cfg, run, Console(quiet=True))
    errors = capsys.readouterr().err
    assert leaving.value.code == UNWRITTEN
    assert f"[Errno 30] Read-only file system: '{run.path}'" in errors
    assert "checkpoints/best.ckpt, checkpoints/last.ckpt; " in errors
    assert f"resume={run.path}" in errors
    assert "Traceback" not in errors


def test_code_of_ones_own_is_recorded_as_it_was_when_the_training_began(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    versions = iter(("1" * 64, "2" * 64, "3" * 64))  # edited while it trains
    monkeypatch.setattr(fitting, "own_code_digests", lambda cfg: {"nets": next(versions)})
    cfg = _cfg(folder, "trainer.max_epochs=1", network="PlainNetwork")
    run = open_run(tmp_path / "run", cfg)
    summary = stages.train(cfg, run, Console(quiet=True))
    began = read_provenance(run)["own_code"]
    assert summary["own_code"] == began == {"nets": "1" * 64}
    run.summary.unlink()  # and continued after the edit
    cfg.trainer.max_epochs = 2
    said = io.StringIO()
    stages.train(cfg, run, Console(file=said, width=200))
    assert "nets changed" in said.getvalue()


def test_a_full_disk_is_one_line_and_the_run_continues_when_there_is_room(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cfg = _cfg_with(folder, "LessRoom")
    run = open_run(tmp_path / "run", cfg)
    most = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    with little_room(most), pytest.raises(SystemExit) as leaving, explained(run):
        stages.train(cfg, run, Console(quiet=True))
    errors = capsys.readouterr().err
    assert leaving.value.code == UNWRITTEN
    assert "[Errno 27] File too large" in errors
    assert "metrics of 1 epochs" in errors
    assert f"resume={run.path}" in errors
    assert "Traceback" not in errors
    whole = [path.name for path in run.path.rglob("*") if path.is_file()]
    assert not [name for name in whole if name.startswith((".m", ".b"))]
    cfg.callbacks.more = {}
    stages.train(cfg, run, Console(quiet=True))
    assert len(read_rows(run.metrics)) == 3


class Interrupted(lightning.Callback):
    """Ctrl-C in the second epoch."""

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.current_epoch:
            signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize(("cause", "code"), [("LessRoom", UNWRITTEN), ("Interrupted", INTERRUPTED)])
def test_a_broken_fold_is_not_continued_by_resume(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], cause: str, code: int
) -> None:
    cfg = _cfg_with(folder, cause)
    for key, value in (("name", "full"), ("paths", {"runs": str(tmp_path / "runs")})):
        OmegaConf.update(cfg, key, value, force_add=True)
    most = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    with little_room(most), pytest.raises(SystemExit) as leaving:
        cross_validate(cfg, 2, Console(quiet=True))
    assert leaving.value.code == code
    errors = capsys.readouterr().err
    assert "the same command" in errors
    assert "resume=" not in errors


def test_a_disk_that_is_full_from_the_start_leaves_no_folder(folder: Path, tmp_path: Path) -> None:
    cfg = _cfg(folder, network="PlainNetwork")
    with little_room(100), pytest.raises(OSError, match=r"File too large.*config\.yaml"):
        create_run(tmp_path / "runs", cfg, datetime(2026, 1, 1))
    assert list((tmp_path / "runs").iterdir()) == []


def test_what_ddp_adds_in_place_is_counted_once() -> None:
    scores = EpochScores(2)
    scores.add(torch.tensor([[0.0, 1.0]]), torch.tensor([1]), torch.tensor(0.5))
    for _ in range(3):
        assert float(scores.loss(lambda value: value.mul_(2))) == 1.0
    assert scores.take()["loss"] == 0.5


def test_the_saved_files_of_a_run_that_never_began_are_none(tmp_path: Path) -> None:
    assert "no checkpoint; metrics of 0 epochs" in launch._saved(RunFolder(tmp_path))
