"""Hardware detection: precision, memory, threads, trainer."""

import ctypes
import logging
import platform
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from common.lightning import lightning
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
