"""Fits a network to the training images: from a configuration to the best weights."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from rich.console import Console

from ml.runs.folder import ResumeError, RunFolder, config_digest
from ml.runs.provenance import record_start
from ml.training.callbacks import WholeCheckpointIO
from ml.training.config import ConfigError, check_values, is_fast_dev_run
from ml.training.distribution import LocalRanks, together
from ml.training.hardware import describe_device, quiet_lightning, shared_threads
from ml.training.launch import INTERRUPTED
from ml.training.module import ImageClassifier
from ml.training.torchrun import is_started_by_torchrun

_STEM_IMAGES = 5000


@dataclass(frozen=True)
class Fitted:
    """What is left after the last step of training; `load_best` puts the best weights in."""

    data: Any
    module: ImageClassifier
    trainer: lightning.Trainer


def fit(
    cfg: DictConfig,
    run: RunFolder,
    console: Console,
    extra_callbacks: Sequence[lightning.Callback] = (),
    *,
    recorded: bool = True,
) -> Fitted:
    """Trains in a run folder, from its last checkpoint if it has one; Ctrl-C leaves with
    `INTERRUPTED`.

    Args:
        run: an existing folder that holds this configuration, see `ml.runs.folder.open_run`.
        extra_callbacks: called after those of the configuration; what they raise passes through.
        recorded: False for a folder that is thrown away, as a build action's: nothing is written
            about where the run comes from, and the test images need not be there.

    Raises:
        ConfigError: parts that do not fit each other; nothing has started.
        InstantiationException: a part refuses its values; nothing has started.
        ResumeError: the checkpoint to continue from is damaged.
    """
    ranks = LocalRanks()
    data, module, trainer = _assemble_or_refuse(cfg, run, extra_callbacks, ranks)
    checkpoint = readable_checkpoint(run)
    if trainer.is_global_zero:
        _print_start(console, trainer, module, continued=checkpoint is not None)
        if recorded:
            _print_folder(console, cfg, run)
            _record_start(console, cfg, run, data, trainer)
    with together(ranks, run.path):
        _fit(data, module, trainer, run, checkpoint)
    return Fitted(data, module, trainer)


def follow(run: RunFolder, ranks: LocalRanks) -> None:
    """Trains along with the process that started this one."""
    data, module, trainer = _assemble_or_refuse(run.load_config(), run, (), ranks)
    _fit(data, module, trainer, run, readable_checkpoint(run))


def _assemble_or_refuse(
    cfg: DictConfig,
    run: RunFolder,
    extra_callbacks: Sequence[lightning.Callback],
    ranks: LocalRanks,
) -> tuple[lightning.LightningDataModule, ImageClassifier, lightning.Trainer]:
    quiet_lightning()
    lightning.seed_everything(cfg.seed, workers=True, verbose=False)
    try:
        return assemble(cfg, run, extra_callbacks, ranks)
    except ValueError as exc:  # parts that do not fit each other: nothing has started yet
        raise ConfigError(str(exc)) from exc


def _fit(
    data: lightning.LightningDataModule,
    module: ImageClassifier,
    trainer: lightning.Trainer,
    run: RunFolder,
    checkpoint: Path | None,
) -> None:
    try:
        with shared_threads(trainer):
            trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    except SystemExit:  # Lightning's answer to Ctrl-C
        if trainer.is_global_zero:
            print(f"\nInterrupted. Continue with: resume={run.path}", file=sys.stderr)
        sys.exit(INTERRUPTED)


def assemble(
    cfg: DictConfig,
    run: RunFolder,
    extra_callbacks: Sequence[lightning.Callback] = (),
    ranks: LocalRanks | None = None,
) -> tuple[lightning.LightningDataModule, ImageClassifier, lightning.Trainer]:
    """Data, model and trainer as the configuration names them.

    Args:
        ranks: the processes that train together, unless torchrun started them.

    Raises:
        InstantiationException: a part refuses its values.
        ValueError: the parts do not fit each other.
    """
    check_values(cfg)
    plugins: list[Any] = [WholeCheckpointIO()]
    if not is_started_by_torchrun():
        if (nodes := cfg.trainer.get("num_nodes", 1)) > 1:
            raise ValueError(f"trainer.num_nodes={nodes}: start it by torchrun on each machine")
        plugins.append(ranks or LocalRanks())
    trainer = instantiate(
        cfg.trainer,
        callbacks=[*_callbacks(cfg), *extra_callbacks],
        default_root_dir=str(run.path),
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        plugins=plugins,
    )
    data = instantiate(cfg.data)
    data.device = trainer.strategy.root_device
    if data.batch_size % trainer.world_size:
        raise ValueError(
            f"data.batch_size={data.batch_size} cannot be shared equally by "
            f"{trainer.world_size} processes: choose a multiple of {trainer.world_size}"
        )
    network = instantiate(cfg.network, classes=len(data.classes))
    if hasattr(network, "initialise_from"):
        images = data.train_images()
        network.initialise_from(images.normalise(images.pixels[:_STEM_IMAGES]).cpu())
    module = ImageClassifier(
        network,
        classes=len(data.classes),
        make_optimizer=instantiate(cfg.optimizer),
        label_smoothing=cfg.label_smoothing,
        warmup=cfg.warmup,
    )
    return data, module, trainer


def _callbacks(cfg: DictConfig) -> list[lightning.Callback]:
    """Those of the configuration that are not null, a user's own last."""
    named = dict(cfg.callbacks)
    more = named.pop("more", None) or {}
    return [instantiate(one) for one in (*named.values(), *more.values()) if one is not None]


def readable_checkpoint(run: RunFolder) -> Path | None:
    """The checkpoint that a run continues from; None for one that has not finished an epoch.

    Raises:
        ResumeError: it is damaged.
    """
    path = run.last_checkpoint
    if not path.is_file():
        return None
    try:
        torch.load(path, map_location="cpu", weights_only=True)
    except Exception as exc:  # whatever unpickling a damaged file comes upon
        raise ResumeError(
            f"{path} is damaged ({type(exc).__name__}): delete it to train this run from the start"
        ) from None
    return path


def load_best(module: ImageClassifier, trainer: lightning.Trainer) -> None:
    """Puts the weights with the best monitored metric into the module."""
    best = trainer.checkpoint_callback.best_model_path  # type: ignore[union-attr]
    checkpoint = torch.load(best, map_location="cpu", weights_only=True)
    module.load_state_dict(checkpoint["state_dict"])


def _print_start(
    console: Console, trainer: lightning.Trainer, module: ImageClassifier, *, continued: bool
) -> None:
    parameters = sum(weight.numel() for weight in module.network.parameters())
    console.print(
        f"{'Continuing' if continued else 'Training'} {parameters:,} parameters on "
        f"{describe_device(trainer)}, {trainer.precision}",
        highlight=False,
        soft_wrap=True,
    )


def _print_folder(console: Console, cfg: DictConfig, run: RunFolder) -> None:
    where = "none, this is a fast development run" if is_fast_dev_run(cfg) else run.path
    console.print(f"Run folder: {where}", highlight=False, soft_wrap=True)


def _record_start(
    console: Console, cfg: DictConfig, run: RunFolder, data: Any, trainer: lightning.Trainer
) -> None:
    differences = record_start(
        run,
        config_digest=config_digest(cfg),
        dataset_digest=data.digest,
        device=describe_device(trainer),
    )
    for difference in differences:
        console.print(f"[yellow]Warning:[/] {difference}: the metrics may differ", highlight=False)
