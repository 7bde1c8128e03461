"""How much arithmetic a network asks for, and how much this machine can do."""

import time
from collections.abc import Sequence
from math import prod

import onnx
import torch
from torch import Tensor

_SIDE = 2048
_REPEATS = 12


def flops_per_image(model: onnx.ModelProto) -> int:
    """Floating-point operations of convolutions and matrix products; a multiply-add counts as two.

    Args:
        model: takes any number of images; shapes are inferred for one.
    """
    single = onnx.ModelProto()
    single.CopyFrom(model)
    for value in (*single.graph.input, *single.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    del single.graph.value_info[:]
    graph = onnx.shape_inference.infer_shapes(single, data_prop=True).graph
    shapes: dict[str, Sequence[int]] = {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.value_info, *graph.output)
    }
    shapes |= {weight.name: weight.dims for weight in graph.initializer}
    return sum(_operations(node, shapes) for node in graph.node)


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


def _operations(node: onnx.NodeProto, shapes: dict[str, Sequence[int]]) -> int:
    if node.op_type == "Conv":  # weight: (outputs, inputs per group, height, width)
        return 2 * prod(shapes[node.output[0]]) * prod(shapes[node.input[1]][1:])
    if node.op_type in ("Gemm", "MatMul"):
        inner = shapes[node.input[0]]
        turned = any(a.name == "transA" and a.i for a in node.attribute)
        return 2 * prod(shapes[node.output[0]]) * inner[0 if turned else -1]
    return 0


def _seconds(a: Tensor, b: Tensor) -> float:
    start = time.perf_counter()
    torch.mm(a, b)
    return time.perf_counter() - start
