"""The contenders of a benchmark: all forms in which a network can be served, or given model
files.
"""

from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import nn

from ml.artifact.artifact import ArtifactError, load_artifact
from ml.artifact.export import ServingGraph, to_onnx
from ml.artifact.quantise import quantised
from ml.benchmark.latency import uncompilable
from ml.benchmark.rounds import Contender


class Field(NamedTuple):
    """Contenders, the input's height and width in pixels, and the operations per image."""

    contenders: list[Contender]
    size: tuple[int, int]
    flops: int


def of_network(
    network: nn.Module, artifact: Path, calibration_images: NDArray[np.uint8], folder: Path
) -> Field:
    """PyTorch eager and compiled, and ONNX as exported, simplified, and in INT8.

    Args:
        artifact: the network's simplified export.
        folder: for the files of the other contenders.
    """
    metadata = load_artifact(artifact).metadata
    graph = ServingGraph(network.float().cpu(), metadata.mean, metadata.std).eval()
    saved, raw, small = folder / "graph.pt", folder / "exported.onnx", folder / "int8.onnx"
    torch.save(graph, saved)
    onnx.save(to_onnx(network, metadata.input_size, metadata.mean, metadata.std), raw)
    simplified = onnx.load(artifact)
    onnx.save(quantised(simplified, calibration_images), small)
    found = [
        Contender("torch eager", "eager", saved),
        Contender("torch compile", "compile", saved, uncompilable()),
        Contender("ONNX", "onnx", raw),
        Contender("ONNX simplified", "onnx", artifact),
        Contender("ONNX INT8", "onnx", small),
    ]
    return Field(found, metadata.input_size, flops_per_image(simplified))


def of_files(paths: Sequence[Path]) -> Field:
    """Model artifacts under distinct names.

    Raises:
        ArtifactError: one is invalid, or they take images of different sizes.
    """
    sizes = {path: load_artifact(path).metadata.input_size for path in paths}
    if len({*sizes.values()}) > 1:
        listed = ", ".join(f"{path}: {size[0]} x {size[1]}" for path, size in sizes.items())
        raise ArtifactError(f"models for images of different sizes cannot be compared ({listed})")
    names = distinct_names(paths)
    found = [Contender(n, "onnx", path) for n, path in zip(names, paths, strict=True)]
    return Field(found, sizes[paths[0]], flops_per_image(onnx.load(paths[0])))


def distinct_names(paths: Sequence[Path]) -> list[str]:
    """File names, prefixed by as many folders as necessary."""
    parts = [path.absolute().parts for path in paths]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-length:]) for part in parts]
        if len({*names}) == len(paths):
            return names
    raise ArtifactError("the same model is named twice")


def flops_per_image(model: onnx.ModelProto) -> int:
    """Floating-point operations of convolutions and matrix products; a multiply-add counts as two.

    Args:
        model: has a dynamic batch axis; shapes are inferred for one image.
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


def _operations(node: onnx.NodeProto, shapes: dict[str, Sequence[int]]) -> int:
    if node.op_type == "Conv":  # weight: (outputs, inputs per group, height, width)
        return 2 * prod(shapes[node.output[0]]) * prod(shapes[node.input[1]][1:])
    if node.op_type in ("Gemm", "MatMul"):
        inner = shapes[node.input[0]]
        turned = any(a.name == "transA" and a.i for a in node.attribute)
        return 2 * prod(shapes[node.output[0]]) * inner[0 if turned else -1]
    return 0
