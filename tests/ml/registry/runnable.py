"""Artifacts that onnxruntime runs: two classes, told apart by how bright 4 x 5 pixels are."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from common.model.artifact import ParityVector, Scores
from ml.artifact.artifact import write_artifact
from ml.registry.outcomes import Examples
from tests.common.model.samples import sample_metadata

_STEEPNESS = 0.2


@dataclass(frozen=True)
class Maker:
    """Makes models that answer "flat" above some brightness (0..255); 128 is always right."""

    folder: Path

    def artifact(self, threshold: float = 128, **changes: Any) -> bytes:
        """A file whose scores are those on `examples()`."""
        answers = probabilities(examples().images, threshold)
        right = answers.argmax(axis=1) == examples().labels
        parity = examples().images[:2]
        rows = tuple(tuple(row) for row in answers[:2].tolist())
        # The error of two certain classes: how much surer the model is than right.
        error = abs(float(answers.max(axis=1).mean() - right.mean()))
        defaults = {
            "name": "brightness",
            "test_metrics": Scores(len(right), float(right.mean()), 0.9, 0.2, error),
            "parity": ParityVector(parity.tobytes(), rows, 1e-4),
        }
        path = self.folder / "model.onnx"
        write_artifact(_model(threshold), sample_metadata(**defaults | changes), path)
        return path.read_bytes()


def examples(images: int = 4000) -> Examples:
    """Images in random brightness, labelled by it."""
    random = np.random.default_rng(0)
    brightness = random.integers(0, 256, (images, 1, 1, 1))
    pixels = np.broadcast_to(brightness, (images, 4, 5, 3)).astype(np.uint8)
    return Examples("brightness/test", pixels, (brightness[:, 0, 0, 0] > 128).astype(np.int64))


def probabilities(images: NDArray[np.uint8], threshold: float) -> NDArray[np.float64]:
    """What the model computes, in NumPy: (N, 2)."""
    score = _STEEPNESS * (images.reshape(len(images), -1).mean(axis=1) - threshold)
    return np.stack([1 / (1 + np.exp(2 * score)), 1 / (1 + np.exp(-2 * score))], axis=1)


def _model(threshold: float) -> onnx.ModelProto:
    nodes = [
        helper.make_node("Cast", ["images"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["pixels"], ["flat"]),
        helper.make_node("Gemm", ["flat", "weight", "bias"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
    ]
    signs = np.array([-1, 1], np.float32) * _STEEPNESS
    constants = {
        "weight": np.repeat([signs / 60], 60, axis=0).astype(np.float32),
        "bias": (-signs * threshold).astype(np.float32),
    }
    graph = helper.make_graph(
        nodes,
        "brightness",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", 4, 5, 3])],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 2])
            for name in ("logits", "probabilities")
        ],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
