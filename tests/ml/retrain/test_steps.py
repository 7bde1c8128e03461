"""ml/retrain/steps.py and recipe.py: a record goes on where it stopped; the next model is made like
the champion."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf
from rich.console import Console

from ml.retrain.recipe import base_of, champion_config, next_config, starting_weights
from ml.retrain.steps import open_record
from ml.training.config import ConfigError, composed

NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)
UNTIL = "2026-11-30T12:00:00.000000+00:00"


def test_a_record_goes_on_until_it_has_a_decision(tmp_path: Path) -> None:
    first = open_record(tmp_path, {"always": True}, again=False, now=lambda: NOW)
    first.note("estimate", "well", Console(quiet=True), gap=0.1)
    first.run = "runs/x"
    first.save()
    again = open_record(tmp_path, {"always": True}, again=False)
    assert (again.folder, again.until, again.run) == (first.folder, UNTIL, "runs/x")
    assert again.steps == first.steps
    assert open_record(tmp_path, {"always": False}, again=False).folder != first.folder
    assert open_record(tmp_path, {"always": True}, again=True, now=lambda: NOW).folder.name == (
        "2026-11-30_12-00-00-2"
    )
    first.decide("keep", "as it is")
    again.decide("keep", "as it is")


def test_labels_given_after_a_refusal_count(tmp_path: Path) -> None:
    refused = open_record(tmp_path, {}, again=False, now=lambda: NOW)
    refused.note("estimate", "too few labels to read", Console(quiet=True))
    later = open_record(tmp_path, {}, again=False, now=lambda: NOW + timedelta(hours=1))
    assert (later.folder, later.steps) == (refused.folder, [])
    assert later.until == (NOW + timedelta(hours=1)).isoformat(timespec="microseconds")


def test_steps_of_an_interrupted_attempt_are_replaced(tmp_path: Path) -> None:
    record = open_record(tmp_path, {}, again=False)
    for says in ("once", "twice"):
        record.note("estimate", says, Console(quiet=True))
    assert [step.says for step in record.steps] == ["twice"]


def as_known(*overrides: str) -> dict[str, Any]:
    found = OmegaConf.to_container(composed([*overrides, "budget=null"]), resolve=True)
    assert isinstance(found, dict)
    return {str(key): value for key, value in found.items()}


def test_the_next_model_has_the_champions_network_and_data(tmp_path: Path) -> None:
    photos = ("data=folder", f"data.folder={tmp_path}", "data.image_size=16")
    champion = champion_config(as_known(*photos, "network.widths=[8,8,8]", "augmentation.cutout=3"))
    cfg = next_config(champion, tmp_path / "network.pt", ["trainer.max_epochs=2"], UNTIL)
    assert (cfg.network.widths, cfg.augmentation.cutout) == ([8, 8, 8], 3)
    assert (cfg.data.base.folder, cfg.data.base.image_size) == (str(tmp_path), 16)
    assert (cfg.data.until, cfg.init_from) == (UNTIL, str(tmp_path / "network.pt"))
    assert cfg.trainer.max_epochs == 2
    written: Any = OmegaConf.to_container(cfg, resolve=True)
    second = next_config(champion_config(written), None, [], UNTIL)
    assert second.data.base.folder == str(tmp_path)
    assert (second.init_from, second.trainer.max_epochs) == (None, 2)
    assert base_of(second).image_size == 16


def test_from_nothing_all_of_the_champions_recipe_is_taken() -> None:
    champion = champion_config(as_known("preset=tiny", "optimizer=sgd", "label_smoothing=0.3"))
    cfg = next_config(champion, None, [], UNTIL)
    assert (cfg.network.widths, cfg.trainer.max_epochs) == ([16, 64, 64], 6)
    assert (cfg.optimizer._target_, cfg.label_smoothing) == ("ml.training.optimizers.sgd", 0.3)
    assert cfg.data.batch_size == cfg.data.base.batch_size == 512
    assert next_config(champion, None, ["optimizer=muon"], UNTIL).optimizer._target_ == (
        "ml.training.optimizers.muon"
    )


def test_what_cannot_be_repeated_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        champion_config(None)
    with pytest.raises(ConfigError):
        starting_weights("nowhere", tmp_path)
    assert starting_weights("none", tmp_path) is None


def test_a_users_own_dataset_stays_the_base_as_it_was_configured() -> None:
    own = {"_target_": "shapes.Shapes", "folder": "mine", "batch_size": 64, "validation_size": 150}
    champion = OmegaConf.create(
        as_known("network.widths=[8,8,8]") | {"data": own | {"epochs": 20, "seed": 3, "edge": [4]}}
    )
    given = ["trainer.max_epochs=2", "data.base.folder=other", "seed=1"]
    cfg = next_config(champion, None, given, UNTIL)
    base = OmegaConf.to_container(cfg.data.base, resolve=True)
    ours = {"folder": "other", "epochs": 2, "seed": 1, "edge": [4]}
    assert base == own | ours
    assert (cfg.data.batch_size, cfg.data.mirror, cfg.data.max_shift) == (64, True, 2)
    assert cfg.network.widths == [8, 8, 8]
