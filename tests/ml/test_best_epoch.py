"""The best epoch is the same wherever a run is concluded, and with a loss it is the lowest."""

import json
import math
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from ml import stages
from ml.pipeline import layout
from ml.pipeline import train as pipeline
from ml.rules.fit_model import fit_weights
from ml.runs.folder import RunFolder, best_row, direction, open_run
from ml.sweep.worker import run_trial
from ml.training.config import resolved
from tests.ml.data.small_dataset import write_dataset

_SMALL = (
    *("data.validation_size=50", "data.batch_size=10", "data.sizes=[16]", "conclude=false"),
    *("data.size_milestones=[]", "network.widths=[8,8,8]", "trainer.accelerator=cpu"),
    *("trainer.max_epochs=3", "trainer.precision=32-true", "callbacks.system=null"),
)


def _cfg(mode: str) -> DictConfig:
    return OmegaConf.create({"monitor": "m", "callbacks": {"checkpoint": {"mode": mode}}})


@pytest.mark.parametrize(
    ("values", "highest", "lowest"),
    [
        ([0.5, 0.9, 0.1], 1, 2),
        ([0.9, 0.5, 0.9, 0.5], 2, 3),  # of equal ones the last, as checkpoints are kept
        ([math.nan, 0.5, 0.9], 2, 1),
        ([math.nan, math.nan], 1, 1),
    ],
)
def test_the_best_row_follows_the_mode(values: list[float], highest: int, lowest: int) -> None:
    rows = [{"m": value} for value in values]
    assert best_row(rows, _cfg("max")) is rows[highest]
    assert best_row(rows, _cfg("min")) is rows[lowest]


def test_directions_follow_from_names() -> None:
    assert {name: direction(f"val/{name}") for name in ("accuracy", "macro_f1", "loss", "x")} == {
        "accuracy": "max",
        "macro_f1": "max",
        "loss": "min",
        "x": None,
    }
    assert direction("own/x", "min") == "min"
    assert direction("train/accuracy", "min") == "max"


# --- whoever concludes a run ---------------------------------------------------------------------


@pytest.fixture
def cfg(tmp_path: Path) -> DictConfig:
    """A training whose validation loss falls, so that the highest is not the best."""
    folder = write_dataset(tmp_path / "dataset", train=300, test=100)
    return resolved([*_SMALL, f"data.folder={folder}", "monitor=val/loss"])


def _rows(run: RunFolder) -> list[dict[str, float]]:
    return [json.loads(line) for line in run.metrics.read_text().splitlines()]


def _lowest(rows: list[dict[str, float]]) -> dict[str, float]:
    losses = [row["val/loss"] for row in rows]
    assert losses.index(min(losses)) != losses.index(max(losses))
    return rows[losses.index(min(losses))]


def test_training_keeps_the_epoch_of_the_lowest_loss(cfg: DictConfig, tmp_path: Path) -> None:
    run = open_run(tmp_path / "run", cfg)
    summary = stages.train(cfg, run, Console(quiet=True))
    best = _lowest(_rows(run))
    assert (summary["best_epoch"], summary["val/loss"]) == (best["epoch"], best["val/loss"])
    kept = torch.load(run.checkpoints / "best.ckpt", weights_only=True)
    assert kept["epoch"] + 1 == best["epoch"]


def test_the_build_action_tells_of_the_lowest_loss(cfg: DictConfig, tmp_path: Path) -> None:
    train = tmp_path / "dataset" / "train.bin"
    history: dict[str, Any] = fit_weights(cfg, train, tmp_path, tmp_path / "network.pt")
    best = _lowest(history["rows"])
    assert (history["best_epoch"], history["val/loss"]) == (best["epoch"], best["val/loss"])


def test_the_pipeline_records_the_lowest_loss(
    cfg: DictConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    layout.CODE.mkdir(parents=True)
    (layout.CODE / "train.txt").write_text("code\n")
    layout.CONFIG.write_text(OmegaConf.to_yaml(cfg))
    layout.DATASET.symlink_to(tmp_path / "dataset")
    layout.METRICS.mkdir(parents=True)
    run = RunFolder(tmp_path / "run")
    pipeline.train(run, Console(quiet=True))
    best = _lowest(_rows(run))
    told = json.loads((layout.METRICS / "train.json").read_text())
    assert told["best_epoch"] == best["epoch"]
    assert told["val_loss"] == pytest.approx(best["val/loss"], abs=1e-6)


def test_a_trial_of_a_sweep_is_judged_by_the_epoch_of_the_lowest_loss(
    cfg: DictConfig, tmp_path: Path
) -> None:
    run = open_run(tmp_path / "run", cfg)
    trial = optuna.create_study(directions=["minimize", "maximize"]).ask()
    names = ["val/loss", "val/accuracy"]
    values = run_trial(cfg, run, trial, names, Console(quiet=True))
    best = _lowest(_rows(run))
    assert values == [best[name] for name in names]
