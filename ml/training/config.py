"""The typed schema of the configuration: unknown keys and wrong types are rejected before anything
starts."""

import math
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ml.runs.folder import DIRECTIONS, direction, run_config

_Expectation = tuple[Callable[[Any], Any], str]  # whether a value holds, and what is expected

CONFIGS = Path(__file__).absolute().parents[2] / "configs"
# configs/preset, cheapest first
LADDER = ("tiny", "short", "small", "long", "large", "full", "reference")


class ConfigError(ValueError):
    """A value of the right type that is invalid; the message names the key and the expectation."""


class DivergedError(ArithmeticError):
    """A loss is no longer finite, so further steps are pointless."""


@dataclass
class TrainerConfig:
    """Arguments of `ml.training.hardware.make_trainer`, which passes unknown ones to Lightning's
    Trainer (``+trainer.x=…``)."""

    _target_: str = "ml.training.hardware.make_trainer"
    accelerator: str = MISSING
    precision: str = MISSING
    max_epochs: int = MISSING
    devices: int = MISSING
    num_nodes: int = 1
    strategy: str = MISSING
    sync_batchnorm: bool = False
    deterministic: bool = False
    gradient_clip_val: float | None = None
    gradient_clip_algorithm: str | None = None
    accumulate_grad_batches: int = 1
    limit_train_batches: int | float | None = None
    limit_val_batches: int | float | None = None
    fast_dev_run: bool = False


@dataclass
class DataConfig:
    """Arguments of `ml.data.datamodule.CIFAR10`."""

    _target_: str = "ml.data.datamodule.CIFAR10"
    batch_size: int = MISSING
    validation_size: int | float = MISSING
    train_size: int | float | None = None
    epochs: int = MISSING
    sizes: list[Any] | None = None  # numbers; OmegaConf returns unions boxed
    size_milestones: list[float] = MISSING
    max_shift: int = MISSING
    cutout: int = MISSING
    mirror: bool = MISSING
    sampler: str = "shuffled"
    seed: int = MISSING
    folder: str | None = None


@dataclass
class FolderConfig(DataConfig):
    """Arguments of `ml.data.folder.ImageFolder`."""

    _target_: str = "ml.data.folder.ImageFolder"
    image_size: Any = MISSING  # an edge in pixels, or [height, width]
    resize: str = MISSING
    test_share: float = MISSING
    split_seed: int = MISSING
    on_damaged: str = MISSING
    on_duplicates: str = MISSING
    memory_gib: float = MISSING
    max_pixels: int = MISSING


@dataclass
class CapturedConfig(DataConfig):
    """Arguments of `ml.data.captured.CapturedData`."""

    _target_: str = "ml.data.captured.CapturedData"
    base: Any = MISSING
    captures: str | None = None
    since: str | None = None
    until: str | None = None
    live_share: float = MISSING
    near_duplicates: str = MISSING
    alone: bool = MISSING
    repeat: int = MISSING


@dataclass
class AugmentationConfig:
    """Arguments of `ml.data.augmentation.Augmentation`."""

    _target_: str = "ml.data.augmentation.Augmentation"
    mirror: bool = MISSING
    shift: int = MISSING
    cutout: int = MISSING
    crop: float = 1.0
    rotation: float = 0.0
    colour: float = 0.0
    randaugment: int = 0
    magnitude: int = 9
    mixup: float = 0.0
    cutmix: float = 0.0


@dataclass
class ResNetConfig:
    """Arguments of `ml.training.networks.ResNet`."""

    _target_: str = "ml.training.networks.ResNet"
    widths: list[int] = MISSING
    depths: list[int] = MISSING
    logit_scale: float = MISSING


@dataclass
class TorchvisionConfig:
    """Arguments of `ml.training.pretrained.torchvision_model`."""

    _target_: str = "ml.training.pretrained.torchvision_model"
    model: str = MISSING
    small_images: bool = MISSING
    options: Any = None


@dataclass
class MuonConfig:
    """Arguments of `ml.training.optimizers.muon`."""

    _target_: str = "ml.training.optimizers.muon"
    _partial_: bool = True
    filter_lr: float = MISSING
    bias_lr: float = MISSING
    head_lr: float = MISSING
    filter_momentum: float = MISSING
    momentum: float = MISSING
    weight_decay: float = MISSING
    orthogonalise_in: str = MISSING


@dataclass
class SGDConfig:
    """Arguments of `ml.training.optimizers.sgd`."""

    _target_: str = "ml.training.optimizers.sgd"
    _partial_: bool = True
    lr: float = MISSING
    momentum: float = MISSING
    weight_decay: float = MISSING
    layer_lr: Any = None  # learning rates by name; Any, since typed dict entries cannot be replaced


@dataclass
class AdamWConfig:
    """Arguments of `ml.training.optimizers.adamw`."""

    _target_: str = "ml.training.optimizers.adamw"
    _partial_: bool = True
    lr: float = MISSING
    betas: list[float] = MISSING
    weight_decay: float = MISSING
    layer_lr: Any = None  # learning rates by name; Any, since typed dict entries cannot be replaced


@dataclass
class CheckpointConfig:
    """The arguments of `ml.training.callbacks.BestCheckpoint` that a run can change."""

    _target_: str = "ml.training.callbacks.BestCheckpoint"
    filename: str = MISSING
    monitor: str = MISSING
    mode: str | None = MISSING
    save_on_train_epoch_end: bool = MISSING
    enable_version_counter: bool = False


@dataclass
class LastCheckpointConfig:
    """A ModelCheckpoint without a metric: it saves every epoch, not only the best."""

    _target_: str = "lightning.pytorch.callbacks.ModelCheckpoint"
    filename: str = MISSING
    save_on_train_epoch_end: bool = MISSING
    enable_version_counter: bool = False


@dataclass
class EarlyStoppingConfig:
    """The arguments of Lightning's EarlyStopping that a run can change."""

    _target_: str = "lightning.pytorch.callbacks.EarlyStopping"
    monitor: str = MISSING
    mode: str | None = MISSING
    patience: int = MISSING
    min_delta: float = 0.0
    check_finite: bool = MISSING
    check_on_train_epoch_end: bool = MISSING


@dataclass
class AveragingConfig:
    """The arguments of Lightning's EMAWeightAveraging that a run can change."""

    _target_: str = "lightning.pytorch.callbacks.EMAWeightAveraging"
    decay: float = MISSING
    update_every_n_steps: int = 1
    update_starting_at_epoch: int | None = None


@dataclass
class MetricsConfig:
    """`ml.training.callbacks.MetricsLog` takes no arguments."""

    _target_: str = "ml.training.callbacks.MetricsLog"


@dataclass
class ProgressConfig:
    """`ml.training.callbacks.ProgressTable` takes no arguments."""

    _target_: str = "ml.training.callbacks.ProgressTable"


@dataclass
class ProfileConfig:
    """Arguments of `ml.training.monitors.Profile`."""

    _target_: str = "ml.training.monitors.Profile"
    warmup: int = MISSING
    steps: int = MISSING
    rows: int = MISSING


@dataclass
class RateTestConfig:
    """Arguments of `ml.training.monitors.RateTest`."""

    _target_: str = "ml.training.monitors.RateTest"
    min_lr: float = MISSING
    max_lr: float = MISSING
    steps: int = MISSING


@dataclass
class SystemConfig:
    """Arguments of `ml.training.monitors.SystemMonitor`."""

    _target_: str = "ml.training.monitors.SystemMonitor"
    every_s: float = MISSING


@dataclass
class CallbacksConfig:
    """The training's callbacks; null disables one. ``more`` is for the user's own: a name, and a
    ``_target_`` with its arguments."""

    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    last_checkpoint: LastCheckpointConfig = field(default_factory=LastCheckpointConfig)
    early_stopping: EarlyStoppingConfig | None = None
    metrics: MetricsConfig = field(default_factory=MetricsConfig)
    progress: ProgressConfig | None = None
    system: SystemConfig | None = None
    profile: ProfileConfig | None = None
    averaging: AveragingConfig | None = None
    rate_test: RateTestConfig | None = None
    more: dict[str, Any] = field(default_factory=dict)


@dataclass
class WandbConfig:
    """Arguments of `ml.tracking.wandb_logger.WandbLogger`."""

    _target_: str = "ml.tracking.wandb_logger.WandbLogger"
    mode: str = MISSING
    project: str = MISSING
    entity: str | None = None
    group: str | None = None
    tags: list[str] = field(default_factory=list)
    notes: str | None = None
    patience_s: float = MISSING


@dataclass
class TensorBoardConfig:
    """Arguments of `ml.tracking.lightning_loggers.TensorBoard`."""

    _target_: str = "ml.tracking.lightning_loggers.TensorBoard"
    patience_s: float = MISSING


@dataclass
class MLflowConfig:
    """Arguments of `ml.tracking.lightning_loggers.MLflow`."""

    _target_: str = "ml.tracking.lightning_loggers.MLflow"
    tracking_uri: str | None = None
    experiment: str = MISSING
    tags: dict[str, str] = field(default_factory=dict)
    patience_s: float = MISSING


@dataclass
class PresetConfig:
    """Measurements of a preset: its accuracy on the test set, as a share, and the peak memory of
    its training."""

    name: str = MISSING
    accuracy: float = MISSING
    memory_gib: float = MISSING


@dataclass
class PathsConfig:
    """Location of the run folders."""

    runs: str = MISSING


@dataclass
class Config:
    """The whole configuration of `//ml:train`."""

    name: str = MISSING
    seed: int = MISSING
    monitor: str = MISSING
    label_smoothing: float = MISSING
    warmup: float = MISSING
    schedule: str = "linear"
    class_weights: Any = None
    init_from: str | None = None
    freeze: list[str] = field(default_factory=list)
    conclude: bool = True
    resume: str | None = None
    rerun: str | None = None
    fold: list[int] | None = None  # index and number of folds, set by //ml:cross_validate
    budget: str | None = None
    preset: PresetConfig | None = None
    data: Any = MISSING
    augmentation: Any = MISSING
    network: Any = MISSING
    optimizer: Any = MISSING
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    callbacks: CallbacksConfig = field(default_factory=CallbacksConfig)
    logger: Any = MISSING
    paths: PathsConfig = field(default_factory=PathsConfig)


def register_schema() -> None:
    """Registers the schema with Hydra, under the names that the files in configs/ refer to, and the
    resolvers ``${direction:METRIC,OTHERWISE}`` and ``${utc_now:}``, the time of its first use in
    the program."""
    OmegaConf.register_new_resolver("direction", direction, replace=True)
    OmegaConf.register_new_resolver("utc_now", _utc_now, replace=True)
    for name, node in _SCHEMA.items():
        ConfigStore.instance().store(group="schema", name=name, node=node)


_SCHEMA = {
    "train": Config,
    "cifar10": DataConfig,
    "folder": FolderConfig,
    "captured": CapturedConfig,
    "augmentation": AugmentationConfig,
    "resnet": ResNetConfig,
    "torchvision": TorchvisionConfig,
    "muon": MuonConfig,
    "sgd": SGDConfig,
    "adamw": AdamWConfig,
    "wandb": WandbConfig,
    "tensorboard": TensorBoardConfig,
    "mlflow": MLflowConfig,
    "preset": PresetConfig,
}


@cache
def _utc_now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")


@contextmanager
def composing(configs: Path = CONFIGS) -> Iterator[None]:
    """Makes Hydra compose from a folder, temporarily replacing its current one."""
    register_schema()
    before = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(configs.absolute()), version_base="1.3"):
            yield
    finally:
        GlobalHydra.instance().clear()
        if before is not None:
            GlobalHydra.instance().initialize(before)


def composed(overrides: Sequence[str] = (), name: str = "train") -> DictConfig:
    """The configuration from the file of this name with these overrides; within a Hydra application
    or `composing` from its folder, else from ours.

    Raises:
        ConfigError: with Hydra's reasons.
    """
    if not GlobalHydra.instance().is_initialized():
        with composing():
            return composed(overrides, name)
    try:
        return compose(name, [*overrides])
    except COMPOSITION_ERRORS as exc:
        raise not_composed(exc, overrides, name) from exc


# OmegaConf raises AssertionError for a value below one that is null.
COMPOSITION_ERRORS = (HydraException, OmegaConfBaseException, AssertionError)


def not_composed(exc: Exception, overrides: Sequence[str], name: str = "train") -> ConfigError:
    """The error for a configuration that does not compose: the reasons, and suggestions."""
    reasons = [str(exc).split("\nSee https")[0]]
    if exc.__cause__:
        reasons.append(str(exc.__cause__).split("\n    full_key")[0])
    if isinstance(exc, AssertionError):
        reasons = ["a value below a group that is null: choose one, such as averaging=ema, first"]
    return ConfigError("\n".join([*reasons, *suggestions(overrides, name)]))


def suggestions(overrides: Sequence[str], name: str = "train") -> list[str]:
    """The nearest key, group or option for each override that matches none."""
    if not GlobalHydra.instance().is_initialized():
        with composing():
            return suggestions(overrides, name)
    loader = GlobalHydra.instance().config_loader()
    groups = {group for group in loader.list_groups("") if group not in ("hydra", "schema")}
    try:
        parsed = OverridesParser.create().parse_overrides([*overrides])
        chosen = [str(o.input_line) for o in parsed if o.key_or_group in groups]
        chosen = [text for text in chosen if _composes(text, name)]
        known = {*_keys(compose(name, chosen)), *groups}
    except (HydraException, OmegaConfBaseException):
        return []
    lines = []
    for override in parsed:
        typed, value = override.key_or_group, override.get_value_string()
        options = loader.get_group_options(typed) if typed in groups else []
        if typed not in known and not override.is_add():
            if near := get_close_matches(typed, known, 1):
                lines.append(f"{typed}: did you mean {near[0]}?")
        elif options and value not in options and (near := get_close_matches(value, options, 1)):
            lines.append(f"{typed}={value}: did you mean {typed}={near[0]}?")
    return lines


def _composes(override: str, name: str) -> bool:
    try:
        compose(name, [override])
    except (HydraException, OmegaConfBaseException):
        return False
    return True


def _keys(cfg: DictConfig, prefix: str = "") -> Iterator[str]:
    """All keys, including nested ones, in the form that an override uses."""
    for key in map(str, cfg):
        yield f"{prefix}{key}"
        node = cfg._get_node(key)
        if isinstance(node, DictConfig) and not node._is_none() and not node._is_missing():
            yield from _keys(node, f"{prefix}{key}.")


def resolved(overrides: Sequence[str], configs: Path = CONFIGS) -> DictConfig:
    """The plain values that define a training with these overrides, without where and how it is
    started.

    Raises:
        ConfigError: an override is unknown or invalid.
    """
    with composing(configs):
        cfg = composed(overrides)
        check_values(cfg)
        if cfg.get("init_from"):
            raise ConfigError(
                f"init_from={cfg.init_from}: a build or a pipeline knows the data alone, not "
                "weights of another run; start from them by //ml:train"
            )
        if missing := OmegaConf.missing_keys(cfg):
            raise ConfigError(f"without a value: {', '.join(sorted(missing))}")
        return run_config(cfg)


def check_reads_files(
    cfg: DictConfig, who: str, known: Sequence[str] = (DataConfig._target_,)
) -> None:
    """Rejects a configuration of another dataset where the caller passes train.bin and test.bin.

    Raises:
        ConfigError: the configuration names another dataset, so that the wrong one would be
            recorded.
    """
    if (target := cfg.data._target_) not in known:
        raise ConfigError(
            f"data._target_={target}: expected {' or '.join(known)}, since {who} with train.bin "
            "and test.bin; train another dataset by bazel run //ml:train"
        )


def check_values(cfg: DictConfig) -> None:
    """Rejects values that have the right type but are invalid.

    Raises:
        ConfigError: names the key, the value and the expectation.
    """
    for keys, (holds, expectation) in _EXPECTATIONS.items():
        for key in keys.split():
            value = OmegaConf.select(cfg, key)
            if value is not None and not holds(value):
                raise ConfigError(f"{key}={value}: expected a value {expectation}")
    if cfg.get("budget") is not None:
        parse_duration(cfg.budget)
    _check_metric(cfg, "monitor")
    _check_metric(cfg, "callbacks.early_stopping.monitor")
    _check_direction(cfg, "callbacks.checkpoint")
    _check_direction(cfg, "callbacks.early_stopping")
    kept, monitor = OmegaConf.select(cfg, "callbacks.checkpoint.monitor"), cfg.get("monitor")
    if kept is not None and kept != monitor:
        raise ConfigError(
            f"callbacks.checkpoint.monitor={kept}: expected monitor={monitor}, by which the best "
            "epoch is chosen and named everywhere; set monitor alone"
        )


def _are_counts(value: Any) -> bool:
    """Whether a list has only positive counts; a user's own network may have any other value."""
    if not OmegaConf.is_list(value):
        return True
    return len(value) > 0 and all(not isinstance(count, int) or count >= 1 for count in value)


def _is_size(value: Any) -> bool:
    edges = value if OmegaConf.is_list(value) else [value, value]
    return len(edges) == 2 and all(type(edge) is int and edge >= 1 for edge in edges)


def _check_metric(cfg: DictConfig, key: str) -> None:
    metric = OmegaConf.select(cfg, key)
    if metric is None or metric in _METRICS or OmegaConf.select(cfg, "callbacks.more"):
        return
    near = get_close_matches(metric, _METRICS, 1)
    meant = f"did you mean {near[0]}? " if near else ""
    raise ConfigError(
        f"{key}={metric}: expected one of {', '.join(_METRICS)}. {meant}A metric of your own needs "
        "a callback of yours that logs it: +callbacks.more.NAME._target_=…"
    )


def _check_direction(cfg: DictConfig, key: str) -> None:
    """Rejects a mode that would keep the worst epoch, and a metric whose direction is unknown."""
    metric, mode = OmegaConf.select(cfg, f"{key}.monitor"), OmegaConf.select(cfg, f"{key}.mode")
    if metric is None:
        return
    if mode is None:
        raise ConfigError(
            f"monitor={metric}: say whether your metric shall rise or fall: {key}.mode=max or "
            f"{key}.mode=min"
        )
    if mode != (wanted := direction(metric, mode)):
        raise ConfigError(f"{key}.mode={mode}: expected {wanted} for monitor={metric}")


def parse_duration(text: str) -> float:
    """Seconds of ``90s``, ``10m``, ``1.5h`` or ``1h30m``.

    Raises:
        ConfigError: the text has another form, or is not above zero.
    """
    parts = re.findall(r"(\d+(?:\.\d+)?)([hms])", text)
    seconds = sum(float(number) * _UNITS_S[unit] for number, unit in parts)
    if "".join(number + unit for number, unit in parts) != text or not seconds > 0:
        raise ConfigError(
            f"budget={text}: expected a duration such as 90s, 10m or 1h30m, or null for none"
        )
    return seconds


def is_fast_dev_run(cfg: DictConfig) -> bool:
    """Whether a run only tries the code on one batch and keeps nothing."""
    return bool(cfg.trainer.get("fast_dev_run"))


def _one_of(*choices: str) -> _Expectation:
    return choices.__contains__, f"of {', '.join(choices)}"


_METRICS = tuple(f"{part}/{name}" for part in ("val", "train") for name in DIRECTIONS)
_UNITS_S = {"h": 3600.0, "m": 60.0, "s": 1.0}
_NAME = re.compile("[a-z0-9][a-z0-9._-]*")
_VALIDATES = "since every epoch ends with a validation, by which the best one is chosen"

# Keys, and what their values must be where there are any.
_EXPECTATIONS: dict[str, _Expectation] = {
    # As in the model artifact, which would reject any other name after the training.
    "name": (
        _NAME.fullmatch,
        "of lower-case letters, digits, '.', '_' and '-'; the model is called so",
    ),
    "seed data.split_seed": (lambda value: 0 <= value < 2**32, "in 0..4294967295"),
    "fold": (
        lambda value: len(value) == 2 and 0 <= value[0] < value[1],
        "such as [0,5]: the first of five",
    ),
    "schedule": _one_of("linear", "cosine", "constant"),
    "trainer.accelerator": _one_of("auto", "cpu", "gpu", "cuda", "mps", "tpu"),
    "trainer.precision": _one_of(
        "auto", "32-true", "bf16-mixed", "16-mixed", "bf16-true", "16-true", "64-true"
    ),
    "trainer.devices": (lambda value: value >= 1 or value == -1, "at least 1, or -1: all"),
    "trainer.max_steps": (lambda value: value == -1, "of -1: say trainer.max_epochs"),
    "trainer.limit_val_batches": (lambda value: value > 0, f"above 0, {_VALIDATES}"),
    "trainer.check_val_every_n_epoch": (lambda value: value == 1, f"of 1, {_VALIDATES}"),
    "trainer.val_check_interval": (lambda value: value == 1.0, f"of 1, {_VALIDATES}"),
    "trainer.gradient_clip_val": (lambda value: value > 0, "above 0, or null"),
    "trainer.gradient_clip_algorithm": _one_of("norm", "value"),
    "callbacks.rate_test.steps": (lambda value: value >= 20, "at least 20"),
    "callbacks.checkpoint.mode callbacks.early_stopping.mode": _one_of("max", "min"),
    "data.sampler": _one_of("shuffled", "balanced"),
    "data.near_duplicates": _one_of("skip", "keep"),
    "data.validation_size": (lambda value: value != 0, f"above 0, {_VALIDATES}"),
    "data.train_size": (lambda value: value > 0, "above 0, or null: all"),
    "data.image_size": (_is_size, "such as 64, or [height,width]: whole pixels"),
    "optimizer.betas": (lambda value: all(0 <= beta < 1 for beta in value), "in [0, 1)"),
    "optimizer.orthogonalise_in": _one_of("auto", "bfloat16", "float32"),
    "network.widths network.depths": (_are_counts, "such as [2,2,2]: above 0, one for each group"),
    "augmentation.crop": (lambda value: 0 < value <= 1, "in (0, 1]"),
    "augmentation.rotation": (lambda value: 0 <= value <= 180, "in [0, 180]"),
    "augmentation.colour": (lambda value: 0 <= value <= 1, "in [0, 1]"),
    "augmentation.magnitude": (lambda value: 0 <= value <= 30, "in 0..30"),
    "logger.wandb.mode": _one_of("auto", "online", "offline"),
    "trainer.max_epochs trainer.num_nodes trainer.accumulate_grad_batches data.batch_size "
    "data.epochs data.max_pixels data.repeat callbacks.early_stopping.patience": (
        lambda value: value >= 1,
        "at least 1",
    ),
    "trainer.limit_train_batches callbacks.rate_test.min_lr callbacks.system.every_s "
    "logger.wandb.patience_s logger.tensorboard.patience_s logger.mlflow.patience_s": (
        lambda value: value > 0,
        "above 0",
    ),
    "optimizer.lr optimizer.filter_lr optimizer.bias_lr optimizer.head_lr network.logit_scale": (
        lambda value: 0 < value < math.inf,
        "above 0",
    ),
    "optimizer.weight_decay": (lambda value: 0 <= value < math.inf, "at least 0"),
    "data.memory_gib augmentation.shift augmentation.cutout "
    "augmentation.randaugment augmentation.mixup augmentation.cutmix": (
        lambda value: value >= 0,
        "at least 0",
    ),
    "optimizer.momentum optimizer.filter_momentum label_smoothing warmup": (
        lambda value: 0 <= value < 1,
        "in [0, 1)",
    ),
    "callbacks.averaging.decay data.live_share": (lambda value: 0 < value < 1, "in (0, 1)"),
}
