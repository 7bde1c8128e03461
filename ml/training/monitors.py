"""Monitors of a training: CPU, memory and GPU, a profile of the steps, the learning-rate range
test."""

import json
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from torch.profiler import profile

from common.files import write_whole
from common.lightning import LearningRateFinder, LightningModule, Trainer, lightning
from ml.runs.folder import RunFolder, read_rows
from ml.training.callbacks import metrics_log
from ml.training.config import ConfigError


class Profile(lightning.Callback):
    """Profiles some steps of the first epoch with PyTorch's profiler.

    Writes to the run folder ``profile.txt``, the operators by their own time, and
    ``profile_trace.json``, for chrome://tracing and Perfetto.

    Args:
        warmup: steps before the measured ones.
        steps: number of measured steps; fewer if the epoch ends.
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
            self._profile = profile(record_shapes=True)  # of all devices: CPU and GPU
            self._profile.start()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step == self.warmup + self.steps:
            self.on_train_end(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        measured, self._profile = self._profile, None
        if measured is None:
            return
        measured.stop()
        folder = Path(trainer.default_root_dir)
        by = "self_cuda_time_total" if torch.cuda.is_available() else "self_cpu_time_total"
        operators = measured.key_averages(group_by_input_shape=True)
        table = operators.table(sort_by=by, row_limit=self.rows, max_name_column_width=40)
        write_whole(folder / "profile.txt", table + "\n")
        measured.export_chrome_trace(str(folder / "profile_trace.json"))
        print(measured.key_averages().table(sort_by=by, row_limit=8, max_name_column_width=40))
        print(f"Profile of {self.steps} steps: {folder / 'profile.txt'}")


_SMOOTHING = 0.98  # of the loss, as in Lightning
_FIRST_STEPS = 10  # ignored: too noisy


class RateTest(LearningRateFinder):
    """Lightning's learning-rate search instead of a training: the learning rate grows with every
    step, and the suggested one is where the loss falls fastest.

    Source: Smith 2015, arXiv:1506.01186, section 3.3 (the range test).

    Args:
        min_lr, max_lr: the first and the last learning rate.
        steps: optimizer steps between them; fewer if the loss explodes.
    """

    def __init__(self, *, min_lr: float, max_lr: float, steps: int) -> None:
        super().__init__(min_lr, max_lr, num_training_steps=steps, update_attr=False)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        rates = {group["initial_lr"] for group in trainer.optimizers[0].param_groups}
        if len(rates) > 1:
            raise ConfigError(
                f"debug=find_lr looks for one learning rate, the optimizer has {len(rates)}: "
                "expected optimizer=sgd or optimizer=adamw, without layer_lr"
            )
        # As many epochs as the steps take: a short training would end at one of the first rates.
        epochs, trainer.fit_loop.max_epochs = trainer.fit_loop.max_epochs, -1
        self.lr_find(trainer, pl_module)
        trainer.fit_loop.max_epochs = epochs
        trainer.should_stop = True  # before the first epoch

    @property
    def found(self) -> dict[str, Any]:
        """The learning rates, the smoothed loss at each, and the suggestion, None if the loss never
        falls.

        Lightning's suggestion is not used: it takes the slope over the learning rate instead of its
        logarithm, which favours the smallest rates.
        """
        assert self.optimal_lr is not None
        rates = self.optimal_lr.results["lr"]
        # Lightning's bias correction of its moving average counts one step too many.
        losses = [
            loss * (1 - _SMOOTHING ** (step + 2)) / (1 - _SMOOTHING ** (step + 1))
            for step, loss in enumerate(self.optimal_lr.results["loss"])
        ]
        suggestion = None
        if len(rates) > _FIRST_STEPS + 2:  # a slope needs two points, and the last one explodes
            judged = slice(_FIRST_STEPS, -1)
            slopes = np.gradient(np.array(losses[judged]), np.log(rates[judged]))
            if slopes.min() < 0:
                suggestion = rates[judged][int(slopes.argmin())]
        return {"lr": rates, "loss": losses, "suggestion": suggestion}


_GIGABYTE = 1e9


class SystemMonitor(lightning.Callback):
    """Writes a JSON line every few seconds of training, and one at the start and at the end.

    ``cpu_percent`` and ``memory_percent`` are of the whole machine; ``process_cpu_percent`` is 100
    per CPU that the training keeps busy; gigabytes are 10⁹ bytes.

    Args:
        every_s: seconds between two lines.
    """

    def __init__(self, *, every_s: float) -> None:
        self.every_s = every_s
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        path = RunFolder(Path(trainer.default_root_dir)).system
        start_s = metrics_log(trainer).elapsed_s
        # A resumed run repeats what came after its checkpoint.
        kept = [row for row in read_rows(path) if row["elapsed_s"] <= start_s]
        write_whole(path, "".join(json.dumps(row) + "\n" for row in kept))
        self._stop.clear()
        self._thread = threading.Thread(target=self._watch, args=(trainer, path), daemon=True)
        self._thread.start()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._thread:
            self._stop.set()
            self._thread.join()
            self._thread = None

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        self.on_train_end(trainer, pl_module)

    def _watch(self, trainer: Trainer, path: Path) -> None:
        sampler = SystemSampler(trainer.strategy.root_device)
        log = metrics_log(trainer)
        # A full disk only ends the samples; the training detects it itself.
        with suppress(OSError), path.open("a", encoding="utf-8") as file:
            is_last = False
            while True:
                row = {"elapsed_s": round(log.elapsed_s, 2), **sampler.sample()}
                file.write(json.dumps(row) + "\n")
                file.flush()
                if is_last:
                    return
                is_last = self._stop.wait(self.every_s)


class SystemSampler:
    """Samples the machine and this process; percentages are means since the previous sample."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._process = psutil.Process()
        psutil.cpu_percent()
        self._process.cpu_percent()

    def sample(self) -> dict[str, float]:
        """Values by name, as in `SystemMonitor`."""
        memory = psutil.virtual_memory()
        values = {
            "cpu_percent": psutil.cpu_percent(),
            "process_cpu_percent": self._process.cpu_percent(),
            "memory_percent": memory.percent,
            "process_memory_gb": round(self._process.memory_info().rss / _GIGABYTE, 3),
        }
        return values | (self._gpu() if self._device.type == "cuda" else {})

    def _gpu(self) -> dict[str, float]:
        free, total = torch.cuda.mem_get_info(self._device)
        values = {
            "gpu_memory_gb": round((total - free) / _GIGABYTE, 3),
            "gpu_process_memory_gb": round(torch.cuda.memory_reserved(self._device) / _GIGABYTE, 3),
        }
        with suppress(ImportError, RuntimeError):  # needs the Python package of NVIDIA's NVML
            values["gpu_percent"] = float(torch.cuda.utilization(self._device))
        return values
