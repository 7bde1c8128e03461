"""PyTorch's ONNX exporter with a memory, for tests that export again and again."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch.onnx._internal.exporter import _registration

_OPSET = 20  # as ml/artifact/export.py: each has a table of its own


def remember_operators() -> None:
    """Makes the exporter build its table of operators once per process.

    At each export it parses the sources of 497 functions, which takes longer than the rest.
    """
    build = _registration.ONNXRegistry.from_torchlib
    if not hasattr(build, "cache_info"):
        remembered = staticmethod(functools.cache(build))
        _registration.ONNXRegistry.from_torchlib = remembered  # type: ignore[method-assign]


def warm() -> None:
    """Exports a tiny network, so that forked processes find everything imported."""
    remember_operators()
    network: Any = torch.nn.Linear(1, 1).eval()
    rows = {0: torch.export.Dim("N", min=1)}
    torch.onnx.export(
        network,
        (torch.zeros(2, 1),),
        dynamo=True,
        dynamic_shapes=(rows,),
        opset_version=_OPSET,
        verbose=False,
    )
