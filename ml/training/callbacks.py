"""Training callbacks: checkpoints, the metrics log, the progress table."""

import csv
import io
import json
import math
import random
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import Tensor, nn

from common.files import write_whole
from common.lightning import LightningModule, ModelCheckpoint, TorchCheckpointIO, Trainer, lightning
from common.terminal import Progress
from ml.runs.folder import RunFolder
from ml.training.config import ConfigError, DivergedError


class WholeCheckpointIO(TorchCheckpointIO):
    """Lightning's own, but a process that is killed while writing leaves the previous checkpoint
    intact.

    The original moves a finished file from the temp folder, which across file systems is a copy
    that can stop half-way.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None
    ) -> None:
        """Writes to a temporary file in the checkpoint's own folder, then renames it."""
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        write_whole(Path(path), buffer.getvalue())


def save_weights(network: nn.Module, path: Path) -> None:
    """Writes the state dict of a network atomically; ``torch.load(path)`` reads it."""
    buffer = io.BytesIO()
    torch.save(network.state_dict(), buffer)
    write_whole(path, buffer.getvalue())


def learning_rates(optimizer: torch.optim.Optimizer) -> dict[str, float]:
    """The learning rate of each parameter group by its name in the configuration: ``filter_lr`` for
    the group ``filter``, ``lr`` for groups without a name."""
    rates: dict[str, float] = {}
    for index, group in enumerate(optimizer.param_groups):
        key = f"{group['name']}_lr" if "name" in group else "lr"
        same = rates.get(key, group["lr"]) == group["lr"]
        rates[key if same else f"{key}_{index}"] = group["lr"]
    return rates


class EpochSeed(lightning.Callback):
    """Reseeds all random number generators at each epoch, from seed, epoch and process rank alone.

    A resumed run therefore draws the same dropout masks and other random numbers as an
    uninterrupted one, although checkpoints do not store random states.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        key = np.random.SeedSequence((self.seed, trainer.current_epoch, trainer.global_rank))
        number = int(key.generate_state(1)[0])
        random.seed(number)
        np.random.seed(number)
        torch.manual_seed(number)


class BestCheckpoint(ModelCheckpoint):
    """Lightning's own, but keeps the last of equally good epochs.

    With a few dozen validation images, accuracy often reaches 100 % long before the end, while the
    learning rate is still high.
    """

    def check_monitor_top_k(self, trainer: Trainer, current: Tensor | None = None) -> bool:
        """Whether to keep an epoch with this metric; the same on all processes."""
        equals = bool(current is not None and current == self.best_model_score)
        if trainer.strategy.reduce_boolean_decision(equals):
            return True
        return super().check_monitor_top_k(trainer, current)


class MetricsLog(lightning.Callback):
    """Writes one JSON line per epoch to the run folder, without non-finite values; a resumed run
    first drops the lines after its checkpoint."""

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []
        self._before_s = 0.0  # training time before this process resumed the run
        self._started = 0.0
        self._epoch_started = 0.0

    @property
    def elapsed_s(self) -> float:
        """Seconds of training so far, without interruptions."""
        return self._before_s + time.perf_counter() - self._started

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._started = time.perf_counter()
        self._write(trainer)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._epoch_started = time.perf_counter()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        loader: Any = trainer.train_dataloader
        seconds = time.perf_counter() - self._epoch_started
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        self.rows.append(
            {
                "epoch": trainer.current_epoch + 1,
                "step": trainer.global_step,
                **{name: value for name, value in metrics.items() if math.isfinite(value)},
                "image_size": min(loader.size),  # the shorter edge
                **learning_rates(trainer.optimizers[0]),
                "images_per_s": round(
                    trainer.num_training_batches * loader.batch_size / seconds, 1
                ),
                "elapsed_s": round(self.elapsed_s, 2),
            }
        )
        self._write(trainer)
        monitor: Any = getattr(trainer.checkpoint_callback, "monitor", None)
        if monitor is not None and monitor not in metrics:
            raise ConfigError(
                f"monitor={monitor}: expected a metric that is logged, of {', '.join(metrics)}"
            )
        if not math.isfinite(metrics.get(monitor, 0.0)):
            raise DivergedError(
                f"monitor={monitor} is {metrics[monitor]} after epoch {trainer.current_epoch + 1}: "
                "no epoch can be called the best by it"
            )

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows, "elapsed_s": self.elapsed_s}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rows = list(state_dict["rows"])
        self._before_s = state_dict["elapsed_s"]

    def _write(self, trainer: Trainer) -> None:
        if not trainer.is_global_zero:
            return
        run = RunFolder(Path(trainer.default_root_dir))
        lines = (json.dumps(row, allow_nan=False) + "\n" for row in self.rows)
        write_whole(run.metrics, "".join(lines))
        write_whole(run.metrics_table, _as_csv(self.rows))


def _as_csv(rows: Sequence[Mapping[str, float]]) -> str:
    """A table with a header, for spreadsheets; missing values are empty."""
    columns = dict.fromkeys(name for row in rows for name in row)
    table = io.StringIO()
    writer = csv.DictWriter(table, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return table.getvalue() if rows else ""


def metrics_log(trainer: Trainer) -> MetricsLog:
    """The MetricsLog among a trainer's callbacks."""
    callbacks: list[lightning.Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return next(callback for callback in callbacks if isinstance(callback, MetricsLog))


class ProgressTable(lightning.Callback):
    """Prints a line per epoch; in between, a live progress bar on a terminal, elsewhere a line
    every 20 seconds, with the speed and the remaining time."""

    _HEAD = "  epoch  size  train loss  train acc  val loss  val acc  macro F1  img/s   time"

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console()
        self._progress: Progress | None = None
        self._epoch_started = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        self.console.print(self._HEAD, style="bold", highlight=False)
        self._progress = Progress(
            "training",
            total=sum(_epoch_costs(trainer)),
            completed=_cost_so_far(trainer, trainer.current_epoch, 0.0),
            console=self.console,
        )
        self._progress.__enter__()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._epoch_started = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._progress:
            loader: Any = trainer.train_dataloader
            done = batch_idx + 1
            speed = done * loader.batch_size / (time.perf_counter() - self._epoch_started)
            share = done / trainer.num_training_batches
            self._progress.update(
                _cost_so_far(trainer, trainer.current_epoch, share),
                what=f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}",
                detail=f"{speed:.0f} images/s",
            )

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        row = metrics_log(trainer).rows[-1]
        self.console.print(
            f"{row['epoch']:3.0f}/{trainer.max_epochs:<3}{row['image_size']:6.0f}"
            f"{row['train/loss']:12.4f}"
            f"{row['train/accuracy']:11.2%}{row['val/loss']:10.4f}{row['val/accuracy']:9.2%}"
            f"{row['val/macro_f1']:10.4f}{row['images_per_s']:7.0f}{row['elapsed_s']:6.0f}s",
            highlight=False,
        )

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if self._progress:
            self._progress.__exit__(None, None, None)
            self._progress = None

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        self.teardown(trainer, pl_module, "fit")


def _epoch_costs(trainer: Trainer) -> list[float]:
    """Relative cost of each epoch: proportional to the pixels of its images."""
    sizes = getattr(trainer.train_dataloader, "sizes", None) or [(1, 1)]
    assert trainer.max_epochs is not None
    return [
        float(math.prod(sizes[min(epoch, len(sizes) - 1)])) for epoch in range(trainer.max_epochs)
    ]


def _cost_so_far(trainer: Trainer, epoch: int, share: float) -> float:
    costs = _epoch_costs(trainer)
    return sum(costs[:epoch]) + (costs[epoch] * share if epoch < len(costs) else 0.0)
