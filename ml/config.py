"""The typed schema of the configuration: Hydra refuses unknown keys and wrong types before
anything starts."""

from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig


class ConfigError(ValueError):
    """A value that has the right type and makes no sense; the message names the key and the
    expectation."""


@dataclass
class TrainerConfig:
    """Arguments of `ml.hardware.make_trainer`; what it does not know goes to Lightning's Trainer
    (``+trainer.x=…``)."""

    _target_: str = "ml.hardware.make_trainer"
    accelerator: str = MISSING
    precision: str = MISSING
    max_epochs: int = MISSING
    devices: Any = MISSING
    deterministic: Any = MISSING


@dataclass
class DataConfig:
    """Arguments of `ml.data.datamodule.CIFAR10`."""

    _target_: str = "ml.data.datamodule.CIFAR10"
    batch_size: int = MISSING
    validation_size: int = MISSING
    train_size: int | None = None
    epochs: int = MISSING
    sizes: list[int] = MISSING
    size_milestones: list[float] = MISSING
    max_shift: int = MISSING
    cutout: int = MISSING
    seed: int = MISSING
    folder: str | None = None


@dataclass
class ResNetConfig:
    """Arguments of `ml.network.ResNet`."""

    _target_: str = "ml.network.ResNet"
    widths: list[int] = MISSING
    depths: list[int] = MISSING
    logit_scale: float = MISSING


@dataclass
class MuonConfig:
    """Arguments of `ml.optimizer.muon`."""

    _target_: str = "ml.optimizer.muon"
    _partial_: bool = True
    filter_lr: float = MISSING
    bias_lr: float = MISSING
    head_lr: float = MISSING
    filter_momentum: float = MISSING
    momentum: float = MISSING
    weight_decay: float = MISSING


@dataclass
class SGDConfig:
    """Arguments of `ml.optimizer.sgd`."""

    _target_: str = "ml.optimizer.sgd"
    _partial_: bool = True
    lr: float = MISSING
    momentum: float = MISSING
    weight_decay: float = MISSING


@dataclass
class PathsConfig:
    """Where run folders are kept."""

    runs: str = MISSING


@dataclass
class Config:
    """The whole configuration of `//ml:train`."""

    name: str = MISSING
    seed: int = MISSING
    monitor: str = MISSING
    label_smoothing: float = MISSING
    warmup: float = MISSING
    conclude: bool = True
    resume: str | None = None
    data: Any = MISSING
    network: Any = MISSING
    optimizer: Any = MISSING
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    callbacks: dict[str, Any] = MISSING
    paths: PathsConfig = field(default_factory=PathsConfig)


def register_schema() -> None:
    """Makes the schema known to Hydra, under the names that the files in configs/ start from."""
    store = ConfigStore.instance()
    store.store(group="schema", name="train", node=Config)
    store.store(group="schema", name="cifar10", node=DataConfig)
    store.store(group="schema", name="resnet", node=ResNetConfig)
    store.store(group="schema", name="muon", node=MuonConfig)
    store.store(group="schema", name="sgd", node=SGDConfig)


def check_values(cfg: DictConfig) -> None:
    """Refuses values that have the right type and make no sense.

    Raises:
        ConfigError: naming the key, the value and the expectation.
    """
    expectations = {
        "trainer.max_epochs": (cfg.trainer.max_epochs >= 1, "at least 1"),
        "label_smoothing": (0 <= cfg.label_smoothing < 1, "in [0, 1)"),
        "warmup": (0 <= cfg.warmup < 1, "in [0, 1)"),
        "seed": (0 <= cfg.seed < 2**32, "in 0..4294967295"),
    }
    for key, (holds, expectation) in expectations.items():
        if not holds:
            value = cfg
            for part in key.split("."):
                value = value[part]
            raise ConfigError(f"{key}={value}: expected a value {expectation}")
