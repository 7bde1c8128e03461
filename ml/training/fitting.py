"""Fits a network to the training images: from a configuration to the best weights."""

import os
import sys
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from rich.console import Console
from torch import nn

from common.lightning import lightning
from ml.artifact.weights import calibrate
from ml.data.checks import check_digest, checked_part, open_data
from ml.data.cifar10 import DatasetError
from ml.data.datamodule import Images
from ml.runs.folder import ResumeError, RunFolder, best_row, config_digest
from ml.runs.provenance import git_revision, lock_digest, own_code_digests, record_start
from ml.training.callbacks import EpochSeed, WholeCheckpointIO, metrics_log, save_weights
from ml.training.config import ConfigError, check_values, is_fast_dev_run
from ml.training.hardware import (
    LocalRanks,
    describe_device,
    leave_group,
    quiet_lightning,
    shared_threads,
    together,
)
from ml.training.launch import INTERRUPTED, is_started_by_torchrun
from ml.training.module import ImageClassifier, class_weights
from ml.training.monitors import RateTest
from ml.training.networks import find_layer
from ml.training.pretrained import load_initial

_STEM_IMAGES, _STEM_BYTES = 5000, 64 << 20  # normalised images, whichever limit is lower


@dataclass(frozen=True)
class Fitted:
    """The state after the last training step; `load_best` loads the best weights into it.

    Attributes:
        fresh: the weights for which ``init_from`` had no values.
        own_code: the digest of each of the user's modules, as of the start of training.
    """

    data: Any
    module: ImageClassifier
    trainer: lightning.Trainer
    fresh: tuple[str, ...] = ()
    own_code: Mapping[str, str] = field(default_factory=dict)


def fit(
    cfg: DictConfig,
    run: RunFolder,
    console: Console,
    extra_callbacks: Sequence[lightning.Callback] = (),
    *,
    recorded: bool = True,
    tests: bool = False,
) -> Fitted:
    """Trains in a run folder, from its last checkpoint if it has one.

    Args:
        run: an existing folder that contains this configuration, see `ml.runs.folder.open_run`.
        extra_callbacks: called after those of the configuration; their exceptions propagate.
        recorded: False for a temporary folder, such as a build action's: the run's provenance is
            not written, and the test images may be missing.
        tests: whether the test images will be needed: if so, they are checked before the training.

    Raises:
        ConfigError: incompatible parts; nothing has started.
        DatasetError: images, labels or class names that cannot be used; nothing has started.
        DivergedError: the loss is no longer finite.
        InstantiationException: a part rejects its values; nothing has started.
        ResumeError: the checkpoint to resume from is damaged.
    """
    ranks = LocalRanks()
    fitted = _assemble(cfg, run, extra_callbacks, ranks)
    if tests and fitted.trainer.is_global_zero:
        checked_part(fitted.data, "test")
    checkpoint = _readable_checkpoint(run)
    if fitted.trainer.is_global_zero:
        _announce(console, cfg, run, fitted, continued=checkpoint is not None, recorded=recorded)
    with together(ranks, run.path):
        _run(fitted, checkpoint)
    return fitted


def _assemble(
    cfg: DictConfig,
    run: RunFolder,
    extra_callbacks: Sequence[lightning.Callback],
    ranks: LocalRanks,
) -> Fitted:
    """Creates data, module and trainer from the configuration; if torchrun started the process, it
    takes the place of ``ranks``."""
    quiet_lightning()
    check_values(cfg)
    lightning.seed_everything(cfg.seed, workers=True, verbose=False)
    nodes = cfg.trainer.get("num_nodes", 1)
    if nodes > 1 and not is_started_by_torchrun():
        raise ConfigError(f"trainer.num_nodes={nodes}: start it by torchrun on each machine")
    trainer = instantiate(
        cfg.trainer,
        callbacks=[EpochSeed(cfg.seed), *_callbacks(cfg), *extra_callbacks],
        default_root_dir=str(run.path),
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        plugins=[WholeCheckpointIO(), *([] if is_started_by_torchrun() else [ranks])],
    )
    own_code = own_code_digests(cfg)  # now, since it may be edited during the training
    data = open_data(cfg)
    data.device = trainer.strategy.root_device
    if data.batch_size % trainer.world_size:
        raise ConfigError(
            f"data.batch_size={data.batch_size} cannot be shared equally by "
            f"{trainer.world_size} processes: choose a multiple of {trainer.world_size}"
        )
    network = instantiate(cfg.network, classes=len(data.classes))
    make_optimizer = instantiate(cfg.optimizer)
    try:
        images = data.train_images()
        _check_accumulation(cfg, len(images.labels) // data.batch_size)
        initialise(network, images)
        _check_network(network, data)
        initial = cfg.get("init_from")
        fresh = load_initial(network, Path(initial)) if initial else []
        _freeze(network, cfg.get("freeze", ()))
        weights = class_weights(cfg.get("class_weights"), images.labels.cpu(), len(data.classes))
        make_optimizer(network)  # rejects unknown layers and shapes
    except (ConfigError, DatasetError):
        raise
    except ValueError as exc:  # values that do not fit the images or the network
        raise ConfigError(str(exc)) from exc
    module = ImageClassifier(
        network,
        classes=len(data.classes),
        make_optimizer=make_optimizer,
        label_smoothing=cfg.label_smoothing,
        warmup=cfg.warmup,
        schedule=cfg.get("schedule", "linear"),  # the schedule of earlier releases
        class_weights=weights,
    )
    return Fitted(data, module, trainer, tuple(fresh), own_code)


def _check_accumulation(cfg: DictConfig, batches: int) -> None:
    """Rejects accumulation over more batches than an epoch has, which Lightning would cut short."""
    steps_over = cfg.trainer.get("accumulate_grad_batches", 1)
    if steps_over > batches:
        raise ConfigError(
            f"trainer.accumulate_grad_batches={steps_over}: expected at most the {batches} batches "
            "of an epoch"
        )


def initialise(network: Any, images: Images) -> None:
    """Shows training images to a network that is initialised from data, fewer if they are large."""
    if hasattr(network, "initialise_from"):
        some = min(_STEM_IMAGES, _STEM_BYTES // (4 * images.take(slice(1)).numel()))
        network.initialise_from(images.normalise(images.take(slice(some))).cpu())


def _check_network(network: nn.Module, data: Any) -> None:
    """Rejects a network that cannot take images of these sizes, or has the wrong number of
    logits."""
    sizes = {tuple(size) for size in (data.image_size, *getattr(data, "sizes", ()))}
    training, expected = network.training, (2, len(data.classes))
    with torch.no_grad(), torch.random.fork_rng():
        for height, width in sorted(sizes):
            try:
                answer = network.eval()(torch.zeros(2, 3, height, width))
            except (RuntimeError, IndexError, ValueError, AssertionError) as exc:
                reason = str(exc).partition("\n")[0]
                raise ConfigError(
                    f"the network cannot take images of {height} × {width} pixels ({reason}): "
                    "give it fewer stages, or the dataset larger images"
                ) from exc
            if tuple(answer.shape) != expected:
                raise ConfigError(
                    f"the network answers two images with {tuple(answer.shape)}, expected "
                    f"{expected}: a logit for each class"
                )
    network.train(training)


def _freeze(network: nn.Module, layers: Iterable[str]) -> None:
    """Freezes layers, including their running statistics: Lightning leaves them in eval mode.

    Raises:
        ValueError: the network has no such layer, or no other layer to train.
    """
    for name in layers:
        find_layer(network, name).requires_grad_(False).eval()
    if not any(weight.requires_grad for weight in network.parameters()):
        raise ValueError(f"freeze={list(layers)}: expected to leave a layer to train")


def _callbacks(cfg: DictConfig) -> list[lightning.Callback]:
    """The callbacks of the configuration that are not null, the user's own last."""
    named = dict(cfg.callbacks)
    more = named.pop("more", None) or {}
    return [instantiate(one) for one in (*named.values(), *more.values()) if one is not None]


def _readable_checkpoint(run: RunFolder) -> Path | None:
    """The checkpoint to resume from; None if the run has not finished an epoch.

    Raises:
        ResumeError: it is damaged.
    """
    path = run.last_checkpoint
    if not path.is_file():
        return None
    try:
        torch.load(path, map_location="cpu", weights_only=True)
    except Exception as exc:  # unpickling a damaged file can raise anything
        raise ResumeError(
            f"{path} is damaged ({type(exc).__name__}): delete it to train this run from the start"
        ) from None
    return path


def _announce(
    console: Console,
    cfg: DictConfig,
    run: RunFolder,
    fitted: Fitted,
    *,
    continued: bool,
    recorded: bool,
) -> None:
    """Prints what is trained and where, and records the run's provenance."""

    def say(line: str) -> None:
        console.print(line, highlight=False, soft_wrap=True)

    device = describe_device(fitted.trainer)
    parameters = sum(weight.numel() for weight in fitted.module.network.parameters())
    verb = "Continuing" if continued else "Training"
    say(f"{verb} {parameters:,} parameters on {device}, {fitted.trainer.precision}")
    initial = cfg.get("init_from")
    if initial:
        rest = f", but for {', '.join(fitted.fresh)}" if fitted.fresh else ""
        say(f"Starting from the weights in {initial}{rest}")
    if not recorded:
        return
    digest = check_digest(fitted.data.digest)
    where = "none, this is a fast development run" if is_fast_dev_run(cfg) else run.path
    say(f"Run folder: {where}")
    differences = record_start(
        run,
        config_digest=config_digest(cfg),
        dataset_digest=digest,
        classes=fitted.data.classes,
        device=device,
        own_code=fitted.own_code,
        initial_weights=Path(initial) if initial else None,
    )
    for difference in differences:
        say(f"[yellow]Warning:[/] {difference}: the metrics may differ")


def _run(fitted: Fitted, checkpoint: Path | None) -> None:
    trainer = fitted.trainer
    try:
        with shared_threads(trainer):
            trainer.fit(
                fitted.module, datamodule=fitted.data, ckpt_path=checkpoint, weights_only=True
            )
    except SystemExit:  # which Lightning makes of it
        raise KeyboardInterrupt from None


def load_best(module: ImageClassifier, trainer: lightning.Trainer) -> None:
    """Loads the weights with the best monitored metric into the module."""
    best = trainer.checkpoint_callback.best_model_path  # type: ignore[union-attr]
    checkpoint = torch.load(best, map_location="cpu", weights_only=True)
    module.load_state_dict(checkpoint["state_dict"])


def finish(cfg: DictConfig, fitted: Fitted, weights: Path) -> dict[str, Any]:
    """Loads the best weights, calibrates them on the validation images, and writes them.

    Returns:
        Facts about the training: `summarise`, and the resulting network's.
    """
    load_best(fitted.module, fitted.trainer)
    network = fitted.module.network.cpu().float().eval()
    temperature = calibrate(network, fitted.data.validation_images())
    save_weights(network, weights)
    return {
        **summarise(cfg, fitted),
        "lock_digest": lock_digest(),
        "temperature": temperature,
        "parameters": sum(weight.numel() for weight in network.parameters()),
    }


def summarise(cfg: DictConfig, fitted: Fitted) -> dict[str, Any]:
    """Facts about a run before its test: the monitored metric at its best, time, device."""
    rows = metrics_log(fitted.trainer).rows
    best = best_row(rows, cfg)
    return {
        "name": cfg.name,
        "seed": cfg.seed,
        "monitor": cfg.monitor,
        cfg.monitor: best[cfg.monitor],
        "best_epoch": best["epoch"],
        "epochs": len(rows),
        "training_s": rows[-1]["elapsed_s"],
        "device": describe_device(fitted.trainer),
        "precision": str(fitted.trainer.precision),
        "git_revision": git_revision(),
        **({"own_code": dict(fitted.own_code)} if fitted.own_code else {}),
    }


def rate_test(trainer: lightning.Trainer) -> dict[str, Any] | None:
    """The result of a learning-rate search, if one was run instead of a training."""
    callbacks: list[lightning.Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return next((one.found for one in callbacks if isinstance(one, RateTest)), None)


def _follow(ranks: LocalRanks, run: RunFolder) -> None:
    """Trains together with the process that started this one, see `ml.training.hardware`."""

    def end_with_the_first() -> None:
        sys.stdin.read()
        os._exit(1)

    threading.Thread(target=end_with_the_first, daemon=True).start()
    fitted = _assemble(run.load_config(), run, (), ranks)
    try:
        _run(fitted, _readable_checkpoint(run))
    except KeyboardInterrupt:  # told by the first
        sys.exit(INTERRUPTED)
    leave_group()


if __name__ == "__main__":
    _rank, _size, _port = map(int, sys.argv[1:4])
    _follow(LocalRanks(_rank, _size, _port), RunFolder(Path(sys.argv[4])))
