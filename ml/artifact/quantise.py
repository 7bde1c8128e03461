"""Static INT8 quantisation of an artifact, gated by accuracy."""

import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)

from common.model.artifact import INPUT, ArtifactMetadata
from common.resources import batch_within_memory
from ml.artifact.artifact import (
    ArtifactError,
    canonical,
    drift_reference,
    load_artifact,
    new_session,
    predict,
    write_artifact,
)
from ml.artifact.evaluation import Evaluation, Labelled, evaluate
from ml.artifact.export import parity_vector, scores
from ml.artifact.simplify import fold_pooled_norms

ACCURACY_TOLERANCE = 0.003  # largest allowed loss of accuracy
PARITY_TOLERANCE = 0.05  # kernels of other CPUs round differently; broken ones are far off

_BATCH = 64  # maximum batch size


class AccuracyError(ValueError):
    """Quantisation loses too much accuracy; nothing was written."""


@dataclass(frozen=True)
class QuantisationReport:
    """What was written, and its loss of accuracy."""

    path: Path
    metadata: ArtifactMetadata
    evaluation: Evaluation  # of the INT8 model
    fp32_accuracy: float
    size_bytes: int
    elapsed_s: float

    @property
    def accuracy_lost(self) -> float:
        """Loss of accuracy; negative if INT8 is better."""
        return self.fp32_accuracy - self.evaluation.accuracy


def quantise_artifact(
    fp32_path: Path, path: Path, *, calibration_images: NDArray[np.uint8], test: Labelled
) -> QuantisationReport:
    """Writes the INT8 model of an fp32 artifact if it passes the gate.

    Args:
        calibration_images: (N, H, W, 3) from the training set; a few hundred determine the ranges.
        test: images for the gate and the metadata's metrics.

    Raises:
        AccuracyError: it loses more than `ACCURACY_TOLERANCE` of accuracy.
        ArtifactError: `fp32_path` is not an artifact, or is quantised already.
    """
    start, images, labels = time.perf_counter(), test.images, test.labels
    full = load_artifact(fp32_path)
    if full.metadata.quantisation != "none":
        raise ArtifactError(f"{fp32_path} is quantised already ({full.metadata.quantisation})")
    classes = full.metadata.classes
    before = evaluate(full.predict(images).probabilities, labels, classes)
    model = quantised(onnx.load(fp32_path), calibration_images)
    answers = predict(new_session(model.SerializeToString()), images).probabilities
    after = evaluate(answers, labels, classes)
    if before.accuracy - after.accuracy > ACCURACY_TOLERANCE:
        raise AccuracyError(
            f"INT8 is right on {after.accuracy:.2%} of the images, fp32 on {before.accuracy:.2%}: "
            f"expected a loss of at most {ACCURACY_TOLERANCE:.1%}; nothing was written"
        )
    metadata = replace(
        full.metadata,
        quantisation="int8",
        test_metrics=scores(after),
        drift_reference=drift_reference(images, answers),
        parity=parity_vector(images, answers, PARITY_TOLERANCE),
    )
    return QuantisationReport(
        path=path,
        metadata=write_artifact(model, metadata, path),
        evaluation=after,
        fp32_accuracy=before.accuracy,
        size_bytes=path.stat().st_size,
        elapsed_s=time.perf_counter() - start,
    )


def quantised(model: onnx.ModelProto, calibration_images: NDArray[np.uint8]) -> onnx.ModelProto:
    """8-bit convolutions, activations, poolings and residual sums with per-channel scales, except
    for the first convolution.

    With three input channels, integer kernels gain nothing there, and rounding hurts most. After
    it, no value is a float until the last activation: a convolution's output has the scale of its
    ReLU. Weights have seven bits: on CPUs without VNNI instructions, sums of two full products
    would saturate, and accuracy would depend on the machine.
    """
    prepared, _ = fold_pooled_norms(canonical(model))
    # Required by the quantiser: shapes were inferred and the graph was simplified at export.
    prepared.metadata_props.add(key="onnx.quant.pre_process", value="onnxruntime.quant")
    with tempfile.TemporaryDirectory(prefix="kiln-quantise-") as folder:
        before, after = Path(folder, "before.onnx"), Path(folder, "after.onnx")
        onnx.save(prepared, before)
        quantize_static(
            before,
            after,
            _Batches(calibration_images),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["Add", "Conv", "MaxPool", "Relu"],
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=_kept_in_floats(prepared.graph),
            calibrate_method=CalibrationMethod.MinMax,
        )
        return canonical(onnx.load(after))


def _kept_in_floats(graph: onnx.GraphProto) -> list[str]:
    """Names of the nodes up to the first convolution and its activation."""
    kept = list[onnx.NodeProto]()
    for node in graph.node:
        kept.append(node)
        if node.op_type == "Conv":
            break
    features = kept[-1].output[0]
    kept += [node for node in graph.node if node.op_type == "Relu" and features in node.input]
    return [node.name for node in kept]


class _Batches(CalibrationDataReader):
    def __init__(self, images: NDArray[np.uint8]) -> None:
        size = batch_within_memory(images[0].size, _BATCH)
        self._batches: Iterator[NDArray[np.uint8]] = (
            images[i : i + size] for i in range(0, len(images), size)
        )

    def get_next(self) -> dict[str, Any] | None:
        batch = next(self._batches, None)
        return None if batch is None else {INPUT: batch}
