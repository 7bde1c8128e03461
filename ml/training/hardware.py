"""Hardware detection: precision, memory, threads, trainer; one process for each device."""

import ctypes
import logging
import os
import platform
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed

from common.lightning import LightningEnvironment, lightning
from common.programs import python_environment
from common.resources import available_cpus

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4  # from glibc's malloc.h


def make_trainer(*, accelerator: str, precision: str, **options: Any) -> lightning.Trainer:
    """A Lightning trainer; ``precision="auto"`` selects `best_precision`.

    PyTorch starts a thread for each core of the machine; in a container with fewer CPUs it gets
    fewer. On the CPU, memory that a step frees is kept for the next one and denormal numbers are
    flushed to zero: the same results up to training noise, up to twice the speed.
    """
    torch.set_num_threads(min(torch.get_num_threads(), available_cpus()))
    keep_freed_memory()
    torch.set_flush_denormal(True)
    if precision == "auto":
        precision = best_precision(accelerator)
    chosen: Any = precision
    return lightning.Trainer(accelerator=accelerator, precision=chosen, **options)


def quiet_lightning() -> None:
    """Suppresses Lightning's own log messages and warnings in a command's output."""
    for library in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(library).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")  # from Lightning's own use of PyTorch
    # Layers in `freeze` are in eval mode intentionally.
    warnings.filterwarnings("ignore", message=r"Found \d+ module\(s\) in eval mode")
    # A resumed run has its checkpoints there.
    warnings.filterwarnings("ignore", message=".*exists and is not empty.*")
    # The metrics are summed over all processes before they are logged.
    warnings.filterwarnings("ignore", message=".*sync_dist=True.*")


def best_precision(accelerator: str) -> str:
    """``bf16-mixed`` where the device multiplies bfloat16 natively, else ``32-true``."""
    on_gpu = accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()
    return "bf16-mixed" if multiplies_bfloat16("cuda" if on_gpu else "cpu") else "32-true"


def multiplies_bfloat16(device_type: str) -> bool:
    """Whether a device (``cpu``, ``cuda``, ``mps``) has native bfloat16 matrix multiplication.

    Elsewhere PyTorch emulates it: on a CPU without it in a single-threaded loop, seventeen times as
    slow as float32 (measured for a 256 × 2304 matrix on a Zen 3).
    """
    if device_type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device_type != "cpu":
        return False
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def keep_freed_memory() -> None:
    """Makes glibc reuse freed memory instead of returning it; otherwise every step's activations
    cause page faults again."""
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_MAX, 0)
        libc.mallopt(_M_TRIM_THRESHOLD, -1)
        libc.mallopt(_M_TOP_PAD, 256 << 20)


def describe_device(trainer: lightning.Trainer) -> str:
    """The device that trained, for the artifact: ``cuda: NVIDIA H200`` or ``cpu: AMD EPYC, 2
    threads``."""
    several = f", {trainer.world_size} processes" if trainer.world_size > 1 else ""
    if trainer.strategy.root_device.type == "cuda":
        return f"cuda: {torch.cuda.get_device_name(trainer.strategy.root_device)}{several}"
    name = torch.cpu.get_capabilities().get("cpu_name") or platform.machine()
    return f"cpu: {name}, {torch.get_num_threads()} threads{several}"


@contextmanager
def shared_threads(trainer: lightning.Trainer) -> Iterator[None]:
    """Divides PyTorch's threads among several processes that train on one CPU."""
    before = torch.get_num_threads()
    if trainer.strategy.root_device.type == "cpu":
        torch.set_num_threads(max(1, before // trainer.world_size))
    yield
    torch.set_num_threads(before)


_GRACE_S = 60  # for the other processes to exit after the first
_ADDRESS = ("MASTER_ADDR", "MASTER_PORT")


class RankError(RuntimeError):
    """The processes of a training cannot work together; the message says why."""


class LocalRanks(LightningEnvironment):
    """The processes of this machine, started by `together`.

    Lightning's own launcher would run the first process's command line again, whatever it is: a
    sweep, a test, a build action. Here the other processes are given only their run folder.
    """

    def __init__(self, rank: int = 0, size: int = 1, port: int = -1) -> None:
        super().__init__()
        self._global_rank, self._world_size = rank, size
        self._main_port = port  # -1: MASTER_PORT, else a free port

    @property
    def creates_processes_externally(self) -> bool:
        return True  # from Lightning's point of view

    def local_rank(self) -> int:
        return self._global_rank

    def node_rank(self) -> int:
        return 0


@contextmanager
def together(ranks: LocalRanks, folder: Path) -> Iterator[None]:
    """Runs the other processes in the same run folder while the context lasts; they end with this
    process, however it ends.

    Raises:
        RankError: one of them failed although this one did not.
    """
    if ranks.world_size() == 1 or ranks.global_rank() > 0:
        yield
        return
    before = {name: os.environ.get(name) for name in _ADDRESS}
    others = [_start(ranks, rank, folder) for rank in range(1, ranks.world_size())]
    try:
        yield
        leave_group()
        for rank, process in enumerate(others, 1):
            if code := process.wait(_GRACE_S):
                raise RankError(f"process {rank} of {ranks.world_size()} ended with code {code}")
    finally:
        leave_group()
        for process in others:
            process.kill()
            process.communicate()
        for name, value in before.items():  # Lightning has set them
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def _start(ranks: LocalRanks, rank: int, folder: Path) -> subprocess.Popen[bytes]:
    arguments = (str(rank), str(ranks.world_size()), str(ranks.main_port), str(folder))
    return subprocess.Popen(
        [sys.executable, "-m", "ml.training.fitting", *arguments],
        env=python_environment(),
        stdin=subprocess.PIPE,  # held open by this process alone: the others exit when it closes
        stdout=subprocess.DEVNULL,
    )


def leave_group() -> None:
    """Destroys the process group of the training, if there is one."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
