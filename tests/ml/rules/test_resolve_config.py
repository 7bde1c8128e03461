"""The resolved configuration: all that a change in configs/ can do to a training."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf
from PIL import Image

from ml.data.checks import open_data
from ml.rules import pack_images
from ml.rules.action import explained
from ml.rules.resolve_config import resolve
from ml.training.config import CONFIGS, ConfigError

PRESETS = os.environ.get("PRESETS", "").split()  # of //ml:preset


@pytest.fixture
def configs(tmp_path: Path) -> Path:
    return Path(shutil.copytree(CONFIGS, tmp_path / "configs"))


def _text(configs: Path, preset: str = "smoke", *overrides: str) -> str:
    return OmegaConf.to_yaml(resolve(preset, overrides, configs), sort_keys=True)


def test_the_flag_takes_what_trains_from_nothing() -> None:
    named = {
        file.stem
        for group in ("preset", "experiment")
        for file in (CONFIGS / group).iterdir()
        if "# Written by //ml:sweep" not in file.read_text()  # a user's own
    }
    assert sorted(PRESETS) == sorted(named - {"finetune"} | {"default"})


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_of_the_flag_resolves(preset: str) -> None:
    cfg = resolve(preset)
    assert (cfg.preset.name if cfg.preset else cfg.name) == preset
    assert "paths" not in cfg
    assert "${" not in OmegaConf.to_yaml(cfg)


def test_an_edit_that_changes_no_value_changes_nothing(configs: Path) -> None:
    before = _text(configs)
    network = configs / "network" / "resnet.yaml"
    network.write_text("# another comment\n" + network.read_text() + "\n")
    (configs / "experiment" / "other.yaml").write_text("# @package _global_\nname: other\n")
    assert _text(configs) == before


def test_an_edit_of_a_value_that_the_preset_overrides_changes_nothing(configs: Path) -> None:
    before = _text(configs)
    data = configs / "data" / "cifar10.yaml"
    data.write_text(data.read_text().replace("batch_size: 512", "batch_size: 384"))
    assert _text(configs) == before
    assert "batch_size: 384" in _text(configs, "default")


def test_a_hyperparameter_is_in_it(configs: Path) -> None:
    assert _text(configs) != _text(configs, "smoke", "seed=1")
    assert "validation_size: 2000" in _text(configs, "smoke", "data.validation_size=2000")


def test_a_dataset_that_the_build_does_not_read_is_refused(configs: Path) -> None:
    (configs / "data" / "mine.yaml").write_text("_target_: mine.Shapes\n")
    with pytest.raises(ConfigError, match=r"data\._target_=mine\.Shapes: expected"):
        resolve("default", ["data=mine"], configs)


def test_the_environment_is_not_in_it(configs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = _text(configs)
    monkeypatch.setenv("BUILD_WORKSPACE_DIRECTORY", "/somewhere/else")
    assert _text(configs) == before


@pytest.mark.parametrize(
    ("overrides", "complaint"),
    [
        (["seed=-1"], "seed=-1: expected a value in 0"),
        (["trainer.max_epoch=3"], "Key 'max_epoch' not in 'TrainerConfig'"),
        (["trainer.max_epochs=many"], "could not be converted to Integer"),
    ],
)
def test_bad_values_are_refused(overrides: list[str], complaint: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        resolve("smoke", overrides)
    assert complaint in explained(refusal.value)


def test_an_unknown_preset_is_refused() -> None:
    with pytest.raises(ConfigError, match="Could not find 'preset/smok'"):
        resolve("smok")


def test_image_files_become_what_a_training_and_a_test_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KILN_CACHE", "nobody may need it")
    chance = np.random.default_rng(0)
    for place in range(24):
        file = tmp_path / "photos" / "ab"[place % 2] / f"{place}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(chance.integers(0, 256, (9, 9, 3), dtype=np.uint8)).save(file)
    cfg = resolve("default", ["data=folder", "data.image_size=8", "data.batch_size=4"])
    config = tmp_path / "resolved" / "config.yaml"
    config.parent.mkdir()
    config.write_text(OmegaConf.to_yaml(cfg))
    packed = tmp_path / "packed"
    packed.mkdir()
    places = {"config": config, "images": tmp_path / "photos", "output": packed}
    pack_images.main([f"--{name}={place}" for name, place in places.items()])
    assert {file.name for file in packed.iterdir()} == {"dataset.json", "test.bin", "train.bin"}
    (packed / "test.bin").unlink()  # a training does not see it
    data = open_data(cfg, packed)
    assert len(data.train_images().labels) + len(data.validation_images().labels) == 20


def test_image_files_for_cifar10_are_refused(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(OmegaConf.to_yaml(resolve("default")))
    with pytest.raises(ConfigError, match="data=folder"):
        pack_images.main(
            [f"--config={tmp_path / 'config.yaml'}", f"--images={tmp_path}", f"--output={tmp_path}"]
        )
