"""How much arithmetic a network asks for, and how much this machine can do."""

import time

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

_SIDE = 2048
_REPEATS = 12


def flops_per_image(graph: nn.Module, images: Tensor) -> int:
    """Floating-point operations of convolutions and matrix products; a multiply-add counts as two.

    Args:
        graph: a `ServingGraph`.
        images: (N, H, W, 3) uint8, any pixels.
    """
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        graph(images)
    return int(counter.get_total_flops()) // len(images)


def peak_gflops(threads: int) -> float:
    """Best speed of an fp32 matrix product on this CPU, in 1e9 operations a second."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        a, b = torch.randn(2, _SIDE, _SIDE).unbind()
        best = min(_seconds(a, b) for _ in range(_REPEATS))
    finally:
        torch.set_num_threads(before)
    return 2 * _SIDE**3 / best / 1e9


def _seconds(a: Tensor, b: Tensor) -> float:
    start = time.perf_counter()
    torch.mm(a, b)
    return time.perf_counter() - start
