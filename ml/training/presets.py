"""Presets and the time budget: the best preset that finishes in time on this machine."""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from common.resources import available_memory
from common.terminal import duration
from ml.data.cifar10 import TRAIN_IMAGES
from ml.data.datamodule import CIFAR10, size_schedule
from ml.training.config import LADDER, parse_duration
from ml.training.hardware import best_precision, quiet_lightning

_GIBIBYTE = 2**30
_PROBE_BATCH = 64
_OWN_SIZE = CIFAR10.image_size  # no other dataset has presets
_PROBE_S = 0.4  # minimum per measurement
_PROBE_CALLS = 5  # minimum; the first, which compiles kernels, is not counted
# Settings that affect a preset's measured accuracy, which is shown only if none is overridden.
_RECIPE = (
    *("data", "augmentation", "network", "optimizer", "averaging", "callbacks.averaging"),
    *("monitor", "label_smoothing", "warmup", "schedule", "class_weights", "freeze", "init_from"),
    *("trainer.max_epochs", "trainer.gradient_clip", "trainer.accumulate_grad_batches"),
)


@dataclass(frozen=True)
class Speed:
    """Training speed of a configuration's network on this machine.

    Attributes:
        image_s: seconds per image of the largest size, forward and backward.
        step_s: seconds per optimizer step.
    """

    image_s: float
    step_s: float


@dataclass(frozen=True)
class Choice:
    """A preset, with its speed and training time on this machine.

    Attributes:
        seconds: of training, estimated.
        obstacle: why the next better preset was not chosen; None if there is none.
    """

    cfg: DictConfig
    speed: Speed
    seconds: float
    obstacle: str | None = None


class Presets:
    """The configurations that a command line may stand for, and the choice among them.

    Args:
        cfg: the configuration of the command line without a preset.
        overrides: the command line without Hydra's own options.
        compose: composes the same with a preset of `LADDER`; None where the configuration is fixed:
            by name, by ``budget=null``, or by a dataset or network for which there are no presets.
    """

    def __init__(
        self,
        cfg: DictConfig,
        overrides: Sequence[str] = (),
        compose: Callable[[str], DictConfig] | None = None,
    ) -> None:
        self._cfg = cfg
        self._keeps_recipe = not any(text.lstrip("+~").startswith(_RECIPE) for text in overrides)
        self._compose = compose

    def possible(self) -> list[DictConfig]:
        """Every configuration that `choose` may return here; an earlier run has one of them."""
        if self._compose is None:
            return [settle(self._cfg)]
        return [settle(self._compose(name)) for name in LADDER]

    def choose(self, console: Console) -> DictConfig:
        """The configuration to train with, every value settled; if there is a choice, measures the
        machine and prints what was chosen and why."""
        if self._compose is None:
            return settle(self._cfg)
        budget_s = parse_duration(self._cfg.budget)
        choice = climb((settle(self._compose(name)) for name in LADDER), budget_s)
        console.print(self._explanation(choice, budget_s), highlight=False, soft_wrap=True)
        return choice.cfg

    def _explanation(self, choice: Choice, budget_s: float) -> str:
        cfg, seconds = choice.cfg, choice.seconds
        expected = "with your values"
        if self._keeps_recipe:
            expected = f"{cfg.preset.accuracy:.1%} on the test set expected"
        fits = "within" if seconds <= budget_s else "no preset is smaller, but it exceeds"
        images_per_s = f"{1 / choice.speed.image_s:,.0f} images/s at {_largest(cfg)[0]} pixels"
        obstacle = f"; {choice.obstacle}" if choice.obstacle else ""
        return (
            f"Preset {cfg.preset.name}: {expected}, about {duration(seconds)} of training, done "
            f"about {datetime.now() + timedelta(seconds=seconds):%H:%M}; {fits} "
            f"budget={cfg.budget} at the {images_per_s} measured here{obstacle}."
        )


def climb(ladder: Iterable[DictConfig], budget_s: float) -> Choice:
    """The last preset of a ladder that finishes within a budget and fits into memory; the first one
    if none does."""
    memory = available_memory()
    choice: Choice | None = None
    for cfg in ladder:
        name, memory_gib = cfg.preset.name, cfg.preset.memory_gib
        lacks_memory = memory is not None and memory_gib * _GIBIBYTE > memory
        if choice and lacks_memory:
            return replace(choice, obstacle=f"{name} needs {memory_gib:.1f} GiB of memory")
        speed = measure_speed(cfg)
        seconds = training_seconds(cfg, speed)
        if choice and seconds > budget_s:  # another process may have interfered: measure again
            again = measure_speed(cfg)
            speed = Speed(min(speed.image_s, again.image_s), min(speed.step_s, again.step_s))
            seconds = training_seconds(cfg, speed)
        if choice and seconds > budget_s:
            return replace(choice, obstacle=f"{name} would take {duration(seconds)}")
        choice = Choice(cfg, speed, seconds)
        if lacks_memory:
            warning = (
                f"it needs {memory_gib:.1f} GiB of memory, more than there is, and may be killed"
            )
            return replace(choice, obstacle=warning)
    assert choice is not None
    return choice


def settle(cfg: DictConfig) -> DictConfig:
    """The same configuration with each ``auto`` that affects results replaced by this machine's
    value, so that a run that is resumed or repeated elsewhere computes the same."""
    settled = cfg.copy()
    accelerator = OmegaConf.select(cfg, "trainer.accelerator", default="cpu")
    if OmegaConf.select(cfg, "trainer.precision") == "auto":
        settled.trainer.precision = best_precision(accelerator)
    if OmegaConf.select(cfg, "optimizer.orthogonalise_in") == "auto":
        native = best_precision(accelerator) == "bf16-mixed"
        settled.optimizer.orthogonalise_in = "bfloat16" if native else "float32"
    return settled


def measure_speed(cfg: DictConfig) -> Speed:
    """Trains the network of a configuration on random noise for about a second."""
    quiet_lightning()
    trainer = instantiate(
        cfg.trainer,
        devices=1,
        num_nodes=1,
        strategy="auto",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    device, context = trainer.strategy.root_device, trainer.precision_plugin.forward_context
    with torch.random.fork_rng():
        network = instantiate(cfg.network, classes=10).to(device, memory_format=torch.channels_last)
        images = torch.randn(_PROBE_BATCH, 3, *_largest(cfg), device=device)
    images = images.contiguous(memory_format=torch.channels_last)
    labels = torch.zeros(_PROBE_BATCH, dtype=torch.long, device=device)
    optimizer = instantiate(cfg.optimizer)(network)

    def learn() -> None:
        with context():
            loss = F.cross_entropy(network(images), labels)
        loss.backward()

    return Speed(
        image_s=_fastest(learn, device) / _PROBE_BATCH, step_s=_fastest(optimizer.step, device)
    )


def _fastest(work: Callable[[], Any], device: torch.device) -> float:
    """Seconds of the fastest of a few calls; other load on the machine only ever adds time."""
    times: list[float] = []
    started = time.perf_counter()
    while len(times) < _PROBE_CALLS or time.perf_counter() - started < _PROBE_S:
        before = time.perf_counter()
        work()
        if device.type != "cpu":
            torch.accelerator.synchronize(device)
        times.append(time.perf_counter() - before)
    return min(times[1:])


def training_seconds(cfg: DictConfig, speed: Speed) -> float:
    """Estimated seconds of a whole training at a measured speed; the cost of an image of another
    size is proportional to its multiplications."""
    steps = _train_images(cfg) // cfg.data.batch_size * cfg.trainer.max_epochs
    images = training_flop(cfg) / _flop(_on_no_device(cfg), _largest(cfg)) / 3
    return images * speed.image_s + steps * speed.step_s


def training_flop(cfg: DictConfig) -> float:
    """Floating-point operations of a whole training: three forward passes for each training image,
    one for each validation image."""
    data, epochs, network = cfg.data, cfg.trainer.max_epochs, _on_no_device(cfg)
    sizes = _schedule(cfg)
    images = _train_images(cfg) // data.batch_size * data.batch_size
    of_training = sum(sizes.count(size) * _flop(network, size) for size in set(sizes))
    validated = _number(data.validation_size, TRAIN_IMAGES) * epochs
    return 3.0 * images * of_training + validated * _flop(network, _OWN_SIZE)


def _schedule(cfg: DictConfig) -> list[tuple[int, int]]:
    data = cfg.data
    return size_schedule(data.sizes, data.size_milestones, cfg.trainer.max_epochs, _OWN_SIZE)


def _largest(cfg: DictConfig) -> tuple[int, int]:
    return max(_schedule(cfg))


def _train_images(cfg: DictConfig) -> int:
    rest = TRAIN_IMAGES - _number(cfg.data.validation_size, TRAIN_IMAGES)
    return _number(cfg.data.train_size or 1.0, rest)


def _number(size: float, images: int) -> int:
    return round(size * images) if isinstance(size, float) else size


def _on_no_device(cfg: DictConfig) -> nn.Module:
    with torch.random.fork_rng():
        network: nn.Module = instantiate(cfg.network, classes=10)
    return network.to("meta").eval()


def _flop(network: nn.Module, size: tuple[int, int]) -> int:
    images: Tensor = torch.empty(1, 3, *size, device="meta")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(images)
    return int(counter.get_total_flops())
