"""Fits a network to the training images: from a configuration to the best weights, no test set in
sight."""

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

from ml.checkpoint_io import WholeCheckpointIO
from ml.config import ConfigError, check_values
from ml.hardware import describe_device
from ml.module import ImageClassifier
from ml.run_folder import ResumeError, RunFolder

INTERRUPTED = 130  # exit code: as a shell's for Ctrl-C
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
) -> Fitted:
    """Trains in a run folder, from its last checkpoint if it has one; Ctrl-C leaves with
    `INTERRUPTED`.

    Args:
        run: an existing folder that holds this configuration, see `ml.run_folder.open_run`.
        extra_callbacks: called after those of the configuration; what they raise passes through.

    Raises:
        ConfigError: parts that do not fit each other; nothing has started.
        InstantiationException: a part refuses its values; nothing has started.
        ResumeError: the checkpoint to continue from is damaged.
    """
    lightning.seed_everything(cfg.seed, workers=True, verbose=False)
    try:
        data, module, trainer = assemble(cfg, run, extra_callbacks)
    except ValueError as exc:  # parts that do not fit each other: nothing has started yet
        raise ConfigError(str(exc)) from exc
    checkpoint = readable_checkpoint(run)
    _print_start(console, run, trainer, module, continued=checkpoint is not None)
    try:
        trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    except SystemExit:  # Lightning's answer to Ctrl-C
        print(f"\nInterrupted. Continue with: resume={run.path}", file=sys.stderr)
        sys.exit(INTERRUPTED)
    return Fitted(data, module, trainer)


def assemble(
    cfg: DictConfig, run: RunFolder, extra_callbacks: Sequence[lightning.Callback] = ()
) -> tuple[lightning.LightningDataModule, ImageClassifier, lightning.Trainer]:
    """Data, model and trainer as the configuration names them.

    Raises:
        InstantiationException: a part refuses its values.
    """
    check_values(cfg)
    callbacks = [instantiate(callback) for callback in cfg.callbacks.values()]
    trainer = instantiate(
        cfg.trainer,
        callbacks=[*callbacks, *extra_callbacks],
        default_root_dir=str(run.path),
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        plugins=[WholeCheckpointIO()],
    )
    data = instantiate(cfg.data)
    data.device = trainer.strategy.root_device
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
    console: Console,
    run: RunFolder,
    trainer: lightning.Trainer,
    module: ImageClassifier,
    *,
    continued: bool,
) -> None:
    parameters = sum(weight.numel() for weight in module.network.parameters())
    console.print(
        f"{'Continuing' if continued else 'Training'} {parameters:,} parameters on "
        f"{describe_device(trainer)}, {trainer.precision}\nRun folder: {run.path}",
        highlight=False,
        soft_wrap=True,
    )
