"""A sweep over a dataset of the user's own: the data module is asked, never CIFAR-10's files."""

import importlib
import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from ml.sweep import worker as worker_module
from ml.sweep.main import FAILED, main
from ml.sweep.plan import Plan, make_plan
from ml.sweep.settings import SweepError, configuration
from ml.sweep.worker import check_data, data_digest, trial_digest
from tests.ml.sweep.command import WorkersHere

_MODULE = """
import hashlib
import numpy as np
import strokes
from ml.data.datamodule import ImageData


class Bars(ImageData):
    classes = ("upright", "flat")
    image_size = (16, 16)
    mean, std = (0.5, 0.5, 0.5), (0.3, 0.3, 0.3)
    fault = ""

    @property
    def digest(self):
        return hashlib.sha256((self.folder / "train.npz").read_bytes()).hexdigest()

    def read(self, part):
        if self.fault:
            raise ValueError(self.fault)
        table = np.load(self.folder / f"{part}.npz")
        return table["images"], table["labels"]
"""
_DATA = """
_target_: bars.Bars
folder: ???
batch_size: 20
validation_size: 20
epochs: ${trainer.max_epochs}
sizes: [16]
max_shift: 0
seed: ${seed}
"""
_ARGUMENTS = (
    *("sweep=base", "sweep.name=own", "sweep.n_trials=2", "sweep.threads=1", "data=bars"),
    *("network.widths=[8,8,8]", "trainer.max_epochs=1", "trainer.accelerator=cpu"),
    *("trainer.precision=32-true", "label_smoothing=interval(0,0.5)"),
)


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with the user's module, configuration and dataset, on a machine where CIFAR-10 is
    nowhere to be had."""
    (tmp_path / "configs" / "data").mkdir(parents=True)
    (tmp_path / "configs" / "data" / "bars.yaml").write_text(_DATA)
    (tmp_path / "bars.py").write_text(_MODULE)
    (tmp_path / "strokes.py").write_text("WIDTH = 3\n")
    (tmp_path / "empty").mkdir()
    _draw(tmp_path, seed=0)
    monkeypatch.setenv("KILN_CIFAR10", str(tmp_path / "empty"))
    monkeypatch.setenv("BUILD_WORKSPACE_DIRECTORY", str(tmp_path))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr("ml.sweep.search.Workers", WorkersHere)
    worker_module._known.clear()
    yield tmp_path
    for name in ("bars", "strokes"):
        sys.modules.pop(name, None)


def _draw(folder: Path, seed: int) -> None:
    chance = np.random.default_rng(seed)
    for part in ("train", "test"):
        images = chance.integers(0, 100, (80, 3, 16, 16), dtype=np.uint8)
        labels = np.arange(80) % 2
        images[labels == 0, :, :, 6:9] = 255
        images[labels == 1, :, 6:9] = 255
        np.savez(folder / f"{part}.npz", images=images, labels=labels)


def _sweep(mine: Path, *arguments: str) -> int:
    command = ["--config-dir", str(mine / "configs"), *_ARGUMENTS, f"data.folder={mine}"]
    return main([*command, *arguments], Console(file=io.StringIO(), width=140))


def _rows(mine: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads((mine / "multirun/own/trials.json").read_text())
    return rows


def _plan(mine: Path) -> Plan:
    return make_plan([*_ARGUMENTS, f"data.folder={mine}"], [str(mine / "configs")])


def _cfg(mine: Path) -> DictConfig:
    with configuration([str(mine / "configs")]):
        return _plan(mine).compose_trial([])


def test_an_own_dataset_is_searched_and_its_best_trial_written_back(mine: Path) -> None:
    assert _sweep(mine) == 0
    assert [row["state"] for row in _rows(mine)] == ["finished", "finished"]
    experiment = (mine / "configs/experiment/own_best.yaml").read_text()
    train = f"bazel run //ml:train -- --config-dir {mine / 'configs'} experiment=own_best"
    assert train in experiment


def test_a_sweep_without_a_finished_trial_fails_until_its_cause_is_mended(
    mine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bars = importlib.import_module("bars")
    bars.Bars.fault = "the shelf is empty"
    for _ in range(2):  # two trials: fewer than the three failures in a row that stop a sweep
        assert _sweep(mine) == FAILED
        assert "the shelf is empty" in capsys.readouterr().err
    bars.Bars.fault = ""
    assert _sweep(mine) == 0
    assert [row["state"] for row in _rows(mine)] == ["failed"] * 4 + ["finished"] * 2


def test_a_dataset_that_cannot_be_read_is_refused_before_any_trial(mine: Path) -> None:
    (mine / "train.npz").unlink()
    with configuration([str(mine / "configs")]), pytest.raises(SweepError, match=r"train\.npz"):
        check_data(_plan(mine))


def test_the_digest_follows_the_data_and_the_users_code(mine: Path) -> None:
    cfg = _cfg(mine)
    data, trial = data_digest(cfg), trial_digest(cfg)
    other_batches = OmegaConf.merge(cfg, {"data": {"batch_size": 10}})
    _draw(mine, seed=1)
    assert data_digest(other_batches) == data  # type: ignore[arg-type] # read once a process
    worker_module._known.clear()
    assert data_digest(cfg) != data
    _draw(mine, seed=0)
    worker_module._known.clear()
    assert trial_digest(cfg) == trial
    (mine / "bars.py").write_text(_MODULE + "# another\n")
    assert trial_digest(cfg) != trial
    (mine / "bars.py").write_text(_MODULE)
    assert trial_digest(cfg) == trial
    (mine / "strokes.py").write_text("WIDTH = 4\n")
    assert trial_digest(cfg) != trial
