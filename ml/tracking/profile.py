"""Where the time of a training step goes."""

from pathlib import Path
from typing import Any

import lightning
import torch
from lightning import LightningModule, Trainer
from torch.profiler import ProfilerActivity, profile

from ml.files import write_whole


class Profile(lightning.Callback):
    """Measures some steps of the first epoch by PyTorch's profiler.

    Leaves in the run folder ``profile.txt``, the operators by the time that they took themselves,
    and ``profile_trace.json``, for chrome://tracing and Perfetto.

    Args:
        warmup: steps before the measured ones.
        steps: how many are measured; fewer if the epoch ends.
        rows: of the table.
    """

    def __init__(self, *, warmup: int, steps: int, rows: int) -> None:
        self.warmup = warmup
        self.steps = steps
        self.rows = rows
        self._profile: profile | None = None

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if trainer.is_global_zero and trainer.global_step == self.warmup:
            activities = [ProfilerActivity.CPU]
            if torch.cuda.is_available():
                activities.append(ProfilerActivity.CUDA)
            self._profile = profile(activities=activities, record_shapes=True)
            self._profile.start()

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        if self._profile and trainer.global_step == self.warmup + self.steps:
            self._save(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._profile:
            self._save(trainer)

    def _save(self, trainer: Trainer) -> None:
        measured, self._profile = self._profile, None
        assert measured is not None
        measured.stop()
        folder = Path(trainer.default_root_dir)
        by = "self_cuda_time_total" if torch.cuda.is_available() else "self_cpu_time_total"
        operators = measured.key_averages(group_by_input_shape=True)
        table = operators.table(sort_by=by, row_limit=self.rows, max_name_column_width=40)
        write_whole(folder / "profile.txt", table + "\n")
        measured.export_chrome_trace(str(folder / "profile_trace.json"))
        print(measured.key_averages().table(sort_by=by, row_limit=8, max_name_column_width=40))
        print(f"Profile of {self.steps} steps: {folder / 'profile.txt'}")
