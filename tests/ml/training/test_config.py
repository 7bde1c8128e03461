"""Every configuration that ships composes, fits its schema, and makes a network that trains."""

import re
from collections.abc import Iterator

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import ConfigCompositionException
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch.nn import functional as F

from ml.data.datamodule import size_schedule
from ml.training.config import CONFIGS, ConfigError, check_values, composed, register_schema

EXPERIMENTS = sorted(path.stem for path in (CONFIGS / "experiment").glob("*.yaml"))
_LOGGED = "+callbacks.more.own._target_=mine.Logs"
OPTIMIZERS = sorted(path.stem for path in (CONFIGS / "optimizer").glob("*.yaml"))


@pytest.fixture(autouse=True)
def hydra() -> Iterator[None]:
    register_schema()
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        yield
    GlobalHydra.instance().clear()


def _compose(*overrides: str) -> DictConfig:
    return compose("train", list(overrides))


def test_all_presets_are_there() -> None:
    assert {"smoke", "record94", "record96"} <= set(EXPERIMENTS)


@pytest.mark.parametrize(
    "choice",
    [f"optimizer={name}" for name in OPTIMIZERS] + [f"experiment={n}" for n in EXPERIMENTS],
)
def test_every_preset_makes_a_network_that_learns_a_batch(choice: str) -> None:
    cfg = _compose(choice, "network.widths=[8,16,16]")  # the preset at a size a test can afford
    check_values(cfg)
    size_schedule(cfg.data.sizes, cfg.data.size_milestones, cfg.data.epochs, (32, 32))
    torch.manual_seed(0)
    network = instantiate(cfg.network, classes=10)
    stepper = instantiate(cfg.optimizer)(network)
    images, labels = torch.randn(20, 3, 32, 32), torch.arange(20) % 10
    losses = []
    for _ in range(12):
        loss = F.cross_entropy(network(images), labels)
        stepper.zero_grad()
        loss.backward()
        stepper.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize(
    "override", ["sed=1", "data.batchsize=1", "network.depth=[1]", "optimizer.lr=1", "trainer.x=1"]
)
def test_an_unknown_key_is_refused(override: str) -> None:
    with pytest.raises(ConfigCompositionException, match="Could not override"):
        _compose(override)


@pytest.mark.parametrize("override", ["seed=one", "network.widths=[a]", "optimizer.head_lr=fast"])
def test_a_value_of_the_wrong_type_is_refused(override: str) -> None:
    with pytest.raises(ConfigCompositionException, match="Error merging override"):
        _compose(override)


@pytest.mark.parametrize(
    "override",
    [
        "seed=-1",
        "label_smoothing=1",
        "warmup=-0.1",
        "trainer.max_epochs=0",
        "data.validation_size=0",
        "+trainer.check_val_every_n_epoch=2",
        "name=MyRun",
    ],
)
def test_a_value_that_makes_no_sense_is_named(override: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(override.lstrip("+"))):
        check_values(_compose(override))


@pytest.mark.parametrize(
    ("monitor", "mode"),
    [("val/accuracy", "max"), ("val/macro_f1", "max"), ("val/loss", "min"), ("train/loss", "min")],
)
def test_the_monitor_says_what_is_best_and_when_to_stop(monitor: str, mode: str) -> None:
    cfg = _compose(f"monitor={monitor}")
    check_values(cfg)
    assert cfg.callbacks.checkpoint.mode == cfg.callbacks.early_stopping.mode == mode


def test_early_stopping_by_another_metric_follows_that_one() -> None:
    cfg = _compose("callbacks.early_stopping.monitor=val/loss")
    check_values(cfg)
    assert cfg.callbacks.checkpoint.mode == "max"
    assert cfg.callbacks.early_stopping.mode == "min"


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("optimizer.head_lr=0", "above 0"),
        ("optimizer.filter_lr=nan", "above 0"),
        ("optimizer.bias_lr=-1", "above 0"),
        ("optimizer.filter_lr=inf", "above 0"),
        ("optimizer.momentum=2", r"in \[0, 1\)"),
        ("optimizer.weight_decay=-1", "at least 0"),
        ("network.widths=[]", "one for each group"),
        ("network.depths=[0,2,2]", "one for each group"),
        ("network.logit_scale=nan", "above 0"),
        ("data.train_size=-1", "above 0"),
        ("data.epochs=0", "at least 1"),
        ("data.split_seed=-1", "in 0..4294967295"),
        ("monitor=val/acc", "did you mean val/accuracy"),
        ("monitor=test/loss", "did you mean train/loss"),
        ("callbacks.early_stopping.monitor=val/nothing", "a callback of yours that logs it"),
    ],
)
def test_a_number_that_no_training_can_use_is_refused(override: str, expected: str) -> None:
    data = ["data=folder", "data.folder=x"] if "split_seed" in override else []
    with pytest.raises(ConfigError, match=f"^{override.split('=')[0]}=.*{expected}"):
        check_values(_compose(*data, override))


@pytest.mark.parametrize("size", ["0", "[8]", "[8,8,8]", "x", "8.5", "[8,0]"])
def test_an_image_size_that_is_none_is_refused(size: str) -> None:
    with pytest.raises(ConfigError, match=r"data\.image_size=.*\[height,width\]"):
        check_values(_compose("data=folder", "data.folder=photos", f"data.image_size={size}"))


@pytest.mark.parametrize("size", ["8", "[8,12]"])
def test_an_image_size_is_an_edge_or_two(size: str) -> None:
    check_values(_compose("data=folder", "data.folder=photos", f"data.image_size={size}"))


def test_sgd_without_momentum_is_plain_and_two_betas_are_two() -> None:
    network = instantiate(_compose("network.widths=[8,8,8]").network, classes=2)
    plain = _compose("optimizer=sgd", "optimizer.momentum=0")
    check_values(plain)
    assert instantiate(plain.optimizer)(network).defaults["nesterov"] is False
    lone = _compose("optimizer=adamw", "optimizer.betas=[0.9]")
    with pytest.raises(ValueError, match=r"betas=\[0\.9\]"):
        instantiate(lone.optimizer)(network)


def test_the_direction_of_an_own_metric_is_said_once() -> None:
    with pytest.raises(ConfigError, match=r"callbacks\.checkpoint\.mode=max or"):
        check_values(_compose(_LOGGED, "monitor=own/error"))
    cfg = _compose(_LOGGED, "monitor=own/error", "callbacks.checkpoint.mode=min")
    check_values(cfg)
    assert cfg.callbacks.early_stopping.mode == "min"


@pytest.mark.parametrize(
    "overrides",
    [
        ("monitor=val/loss", "callbacks.checkpoint.mode=max"),
        ("callbacks.checkpoint.mode=min",),
        ("callbacks.early_stopping.mode=min",),
        ("callbacks.checkpoint.monitor=val/loss",),
    ],
)
def test_a_mode_that_contradicts_the_monitor_is_refused(overrides: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match=r"callbacks\.(checkpoint|early_stopping)\.m.*expected"):
        check_values(_compose(*overrides))


def test_the_smoke_preset_uses_real_images_and_few_of_them() -> None:
    cfg = _compose("experiment=smoke")
    assert cfg.data.folder is None
    assert cfg.data.train_size <= 5000


def test_a_value_below_one_that_is_null_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"callbacks\.averaging\.decay"):
        composed(["callbacks.averaging.decay=0.5"])
