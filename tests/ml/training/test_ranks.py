"""Processes that train together: as one of them alone would, leaving every file once."""

import io
import json
import os
import signal
import subprocess
import time
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from common.lightning import LightningModule, Trainer, lightning
from ml.data.augmentation import Augmentation
from ml.data.datamodule import AugmentedImages, Images
from ml.runs.folder import RunFolder, open_run
from ml.runs.provenance import read_provenance
from ml.training.config import ConfigError, composed
from ml.training.fitting import fit
from tests.helpers.program import stand_in
from tests.ml.data.small_dataset import write_dataset
from tests.ml.workspace import Workspace

_SMALL = [
    "network._target_=tests.ml.training.plain_network.PlainNetwork",
    "optimizer=sgd",
    "optimizer.lr=0.1",
    "data.validation_size=50",
    "data.batch_size=24",
    "data.sizes=[20]",
    "data.size_milestones=[]",
    "trainer.precision=32-true",
    "trainer.max_epochs=3",
    "conclude=false",
]
_METRICS = ("train/loss", "train/accuracy", "val/loss", "val/accuracy", "val/macro_f1")


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path, write_dataset(tmp_path / "dataset", train=300, test=100))


def _rows(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def _files(run: Path) -> set[str]:
    return {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()}


def test_two_processes_train_as_one_does_and_leave_every_file_once(workspace: Workspace) -> None:
    alone = workspace.run(*_SMALL, "trainer=cpu")
    assert alone.returncode == 0, alone.stderr
    together = workspace.run(*_SMALL, "trainer=ddp_sim", "name=together")
    assert together.returncode == 0, together.stderr
    assert "2 processes" in together.stdout
    first, second = workspace.runs
    assert _files(first) == _files(second)
    for one, two in zip(_rows(first), _rows(second), strict=True):
        assert one["step"] == two["step"]
        assert [two[name] for name in _METRICS] == pytest.approx(
            [one[name] for name in _METRICS], abs=2e-3
        )
    # One line for each epoch, not one from each process.
    assert together.stdout.count("1/3") == 1
    assert "Warning" not in together.stderr


def test_torchrun_starts_the_same_training(workspace: Workspace) -> None:
    process = subprocess.run(
        [
            *(stand_in(), "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"),
            *("-m", "ml.commands.train", *_SMALL, "trainer=ddp_sim"),
        ],
        cwd=workspace.path,
        env=workspace.environment,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert process.returncode == 0, process.stderr
    (run,) = workspace.runs
    assert [row["epoch"] for row in _rows(run)] == [1, 2, 3]
    assert process.stdout.count("1/3") == 1


class _Killed(Exception):
    pass


class _KillAfter(lightning.Callback):
    """Ends a training as a kill does, once so many epochs are in its checkpoint."""

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.current_epoch == self.epochs:
            raise _Killed


def _fit(folder: Path, dataset: Path, devices: str, *callbacks: lightning.Callback) -> RunFolder:
    network = "network._target_=tests.ml.training.plain_network.ForgetfulNetwork"
    cfg = composed([*_SMALL, devices, network, f"data.folder={dataset}"])
    run = open_run(folder, cfg)
    fit(cfg, run, Console(file=io.StringIO()), callbacks)
    return run


@pytest.mark.parametrize("devices", ["trainer=cpu", "trainer=ddp_sim"])
def test_a_run_that_was_killed_continues_to_the_very_state_of_the_unbroken_one(
    tmp_path: Path, devices: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each epoch with its own order, augmentation and dropout, in every process."""
    monkeypatch.setattr("sys.executable", stand_in())
    dataset = write_dataset(tmp_path / "dataset", train=300, test=100)
    unbroken = _fit(tmp_path / "unbroken", dataset, devices)
    with pytest.raises(_Killed):
        _fit(tmp_path / "broken", dataset, devices, _KillAfter(1))
    broken = RunFolder(tmp_path / "broken")
    assert [row["epoch"] for row in _rows(broken.path)] == [1]
    _fit(broken.path, dataset, devices)
    for one, two in zip(_rows(unbroken.path), _rows(broken.path), strict=True):
        assert [one[name] for name in _METRICS] == [two[name] for name in _METRICS]
    first, second = (
        torch.load(run.last_checkpoint, weights_only=True) for run in (unbroken, broken)
    )
    for part in ("state_dict", "optimizer_states", "lr_schedulers", "global_step"):
        torch.testing.assert_close(first[part], second[part], rtol=0, atol=0)
    assert [*read_provenance(broken)["own_code"]] == ["tests.ml.training.plain_network"]


@pytest.mark.parametrize("override", ["data.batch_size=25", "trainer.num_nodes=2"])
def test_what_the_processes_cannot_do_is_refused_before_they_start(
    workspace: Workspace, override: str
) -> None:
    dataset = workspace.environment["KILN_CIFAR10"]
    cfg = composed([*_SMALL, "trainer=ddp_sim", override, f"data.folder={dataset}"])
    with pytest.raises(ConfigError, match=override):
        fit(cfg, RunFolder(workspace.path), Console(file=io.StringIO()))
    assert list(workspace.path.rglob("*.json*")) == []


def test_the_others_end_with_the_first(workspace: Workspace) -> None:
    process = workspace.start(*_SMALL[:-2], "trainer.max_epochs=1000", "trainer=ddp_sim")
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not list(workspace.path.glob("runs/*/metrics.jsonl")):
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.1)
    others = _children(process.pid)
    assert len(others) == 1
    process.send_signal(signal.SIGKILL)
    process.communicate()
    while time.monotonic() < deadline and any(map(_is_alive, others)):
        time.sleep(0.1)
    assert not any(map(_is_alive, others))


def _children(pid: int) -> list[int]:
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in listed if b"ml.training.fitting" in _command(int(child))]


def _command(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        return b"ml.training.fitting" in _command(pid)
    except (ProcessLookupError, FileNotFoundError):
        return False


_SHIFTED = Augmentation(shift=1)


def _training_set(rank: int, ranks: int, augmentation: Augmentation = _SHIFTED) -> AugmentedImages:
    pixels = torch.randint(0, 256, (100, 3, 8, 8), generator=torch.Generator().manual_seed(0))
    images = Images(pixels.to(torch.uint8), torch.arange(100), (0.5,) * 3, (0.25,) * 3)
    return AugmentedImages(
        images,
        batch_size=24,
        augmentation=augmentation,
        classes=100,
        sizes=[(8, 8)],
        seed=0,
        current_epoch=lambda: 0,
        rank=rank,
        ranks=ranks,
    )


@pytest.mark.parametrize(
    "augmentation",
    [_SHIFTED, Augmentation(rotation=20, crop=0.5), Augmentation(mixup=0.4, cutmix=1)],
)
@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_the_shares_of_a_batch_are_the_batch_without_overlap(
    ranks: int, augmentation: Augmentation
) -> None:
    shares = [list(_training_set(rank, ranks, augmentation)) for rank in range(ranks)]
    for index, (pixels, labels) in enumerate(_training_set(0, 1, augmentation)):
        for rank in range(ranks):
            torch.testing.assert_close(shares[rank][index][0], pixels[rank::ranks])
            assert shares[rank][index][1].tolist() == labels[rank::ranks].tolist()


def test_every_process_validates_equally_many_batches_and_every_image_once() -> None:
    images = Images(
        torch.zeros(2001, 3, 4, 4, dtype=torch.uint8),
        torch.arange(2001),
        (0.5,) * 3,
        (0.25,) * 3,
    )
    shares = [[labels.tolist() for _, labels in images.share(rank, 2)] for rank in range(2)]
    assert [len(share) for share in shares] == [3, 3]
    assert sorted(chain(*shares[0], *shares[1])) == list(range(2001))
