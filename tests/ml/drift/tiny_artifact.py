"""A model that takes milliseconds: four classes, told apart by brightness and colour."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

from common.model.artifact import ParityVector
from ml.artifact.artifact import (
    Artifact,
    drift_reference,
    load_artifact,
    new_session,
    predict,
    write_artifact,
)
from tests.common.model.samples import sample_metadata

CLASSES = ("red", "green", "blue", "grey")
SIZE = 8


def scenes(count: int, seed: int = 0) -> NDArray[np.uint8]:
    """(count, 8, 8, 3): smooth slopes in random colours with a little grain."""
    random = np.random.default_rng(seed)
    start, end = random.uniform(30, 220, (2, count, 1, 1, 3))
    position = np.linspace(0, 1, SIZE).reshape(1, SIZE, 1, 1)
    pixels = start + (end - start) * position + random.normal(0, 3, (count, SIZE, SIZE, 3))
    return pixels.clip(0, 255).astype(np.uint8)


def write_tiny_artifact(path: Path, images: NDArray[np.uint8]) -> Artifact:
    """An artifact at `path` whose reference is of (N, 8, 8, 3) images."""
    model = _model()
    answers = predict(new_session(model.SerializeToString(), 1), images).probabilities
    metadata = sample_metadata(
        classes=CLASSES,
        input_size=(SIZE, SIZE),
        drift_reference=drift_reference(images, answers),
        parity=ParityVector(images[:1].tobytes(), (tuple(answers[0].tolist()),), 1e-4),
    )
    write_artifact(model, metadata, path)
    return load_artifact(path, threads=1)


def _model() -> ModelProto:
    colours = np.array([[3, -1, -1, 0], [-1, 3, -1, 0], [-1, -1, 3, 0]], np.float32) / 40
    nodes = [
        helper.make_node("Cast", ["images"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["pixels", "axes"], ["mean"], keepdims=0),
        helper.make_node("MatMul", ["mean", "colours"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
    ]
    images = helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", SIZE, SIZE, 3])
    outputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", len(CLASSES)])
        for name in ("logits", "probabilities")
    ]
    constants = [
        numpy_helper.from_array(np.array([1, 2]), "axes"),
        numpy_helper.from_array(colours, "colours"),
    ]
    graph = helper.make_graph(nodes, "colours", [images], outputs, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
