"""What happens around the epochs of a training: the record of metrics, and the progress people
see."""

import csv
import io
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning
from lightning import LightningModule, Trainer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from ml.files import write_whole
from ml.run_folder import RunFolder


class MetricsLog(lightning.Callback):
    """One JSON line an epoch in the run folder; a run that continues first drops the lines past
    its checkpoint."""

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []
        self._before_s = 0.0  # trained before this process continued the run
        self._started = 0.0
        self._epoch_started = 0.0

    @property
    def elapsed_s(self) -> float:
        """Seconds of training so far, interruptions left out."""
        return self._before_s + time.perf_counter() - self._started

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._started = time.perf_counter()
        self._write(trainer)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._epoch_started = time.perf_counter()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        loader: Any = trainer.train_dataloader
        seconds = time.perf_counter() - self._epoch_started
        self.rows.append(
            {
                "epoch": trainer.current_epoch + 1,
                "step": trainer.global_step,
                **{name: float(value) for name, value in trainer.callback_metrics.items()},
                "image_size": loader.size,
                "learning_rate": trainer.optimizers[0].param_groups[0]["lr"],
                "images_per_s": round(
                    trainer.num_training_batches * loader.batch_size / seconds, 1
                ),
                "elapsed_s": round(self.elapsed_s, 2),
            }
        )
        self._write(trainer)

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows, "elapsed_s": self.elapsed_s}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rows = list(state_dict["rows"])
        self._before_s = state_dict["elapsed_s"]

    def _write(self, trainer: Trainer) -> None:
        if not trainer.is_global_zero:
            return
        run = RunFolder(Path(trainer.default_root_dir))
        write_whole(run.metrics, "".join(json.dumps(row) + "\n" for row in self.rows))
        write_whole(run.metrics_table, _as_csv(self.rows))


def _as_csv(rows: Sequence[Mapping[str, float]]) -> str:
    """A table with a head, for spreadsheets; what a row lacks is empty."""
    columns = dict.fromkeys(name for row in rows for name in row)
    table = io.StringIO()
    writer = csv.DictWriter(table, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return table.getvalue() if rows else ""


def metrics_log(trainer: Trainer) -> MetricsLog:
    """The record of metrics among a trainer's callbacks."""
    callbacks: list[lightning.Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return next(callback for callback in callbacks if isinstance(callback, MetricsLog))


class ProgressTable(lightning.Callback):
    """A line for every epoch; on a terminal also a bar for the whole training with the time that
    is left."""

    _HEAD = "  epoch  size  train loss  train acc  val loss  val acc  macro F1  img/s   time"

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console()
        self._bar: Progress | None = None
        self._task = TaskID(0)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        self.console.print(self._HEAD, style="bold", highlight=False)
        if self.console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.percentage:>3.0f} %"),
                TimeRemainingColumn(),
                console=self.console,
                transient=True,
            )
            total = int(trainer.estimated_stepping_batches)
            self._task = self._bar.add_task("training", total=total, completed=trainer.global_step)
            self._bar.start()

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        if self._bar:
            description = f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"
            self._bar.update(self._task, completed=trainer.global_step, description=description)

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
        if self._bar:
            self._bar.stop()
            self._bar = None

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        self.teardown(trainer, pl_module, "fit")
