"""Exports a trained network as a verified artifact: ONNX, simplification, parity gate, metadata."""

import copy
import logging
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from common.model.artifact import (
    INPUT,
    LOGITS,
    PROBABILITIES,
    ArtifactMetadata,
    ParityVector,
    Provenance,
    Resize,
    Scores,
)
from ml.artifact.artifact import canonical, drift_reference, new_session, predict, write_artifact
from ml.artifact.evaluation import Evaluation, Labelled, evaluate
from ml.artifact.simplify import fold_pooled_norms, simplify

OPSET = 20  # the first with Gelu as an operator; onnxruntime fuses nothing more for later ones
# Largest allowed |difference| in probability between ONNX and PyTorch, fp32.
PARITY_TOLERANCE = 1e-4
PROVED_BATCHES = (1, 2, 7, 100)
PARITY_IMAGES = 2

_UNSEALED = "0" * 64


class ParityError(ValueError):
    """The exported model's predictions differ from PyTorch's; nothing was written."""


@dataclass(frozen=True)
class ExportReport:
    """What was written, and the results of its checks."""

    path: Path
    metadata: ArtifactMetadata
    evaluation: Evaluation  # of PyTorch's predictions for the given images
    parity: float  # max |difference| in probability over all images and the tested batch sizes
    simplification: str
    size_bytes: int
    elapsed_s: float

    def as_dict(self) -> dict[str, Any]:
        """The export in a run's summary: metrics, version, size in bytes, seconds."""
        return {
            "export_s": round(self.elapsed_s, 2),
            "test": self.evaluation.as_dict(),
            "model_version": self.metadata.version,
            "model_bytes": self.size_bytes,
            "parity": self.parity,
            "simplification": self.simplification,
        }


class ServingGraph(nn.Module):
    """The graph from uint8 pixels to logits and probabilities, normalisation included."""

    scale: Tensor
    shift: Tensor

    def __init__(self, network: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        """Wraps a network that takes float32 (N, 3, H, W), normalised by channel."""
        super().__init__()
        self.network = network
        # (x / 255 - mean) / std as one multiplication and one addition
        self.register_buffer("scale", 1 / (255 * _channels(std)))
        self.register_buffer("shift", -_channels(mean) / _channels(std))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(N, H, W, 3) uint8 to (N, K) logits and (N, K) probabilities."""
        pixels = images.permute(0, 3, 1, 2).to(torch.float32)
        logits = self.network(pixels * self.scale + self.shift)
        return logits, torch.softmax(logits, dim=1)


def export_artifact(
    network: nn.Module,
    path: Path,
    *,
    name: str,
    classes: Sequence[str],
    mean: Sequence[float],
    std: Sequence[float],
    provenance: Provenance,
    test: Labelled,
    probabilities: NDArray[np.float32],
    resize: Resize = "crop",
) -> ExportReport:
    """Writes `network` as a model artifact if it passes the gates.

    Args:
        network: maps float32 (N, 3, H, W), normalised by `mean` and `std`, to (N, K) logits.
        test: the images for parity and metrics.
        probabilities: (N, K), PyTorch's fp32 predictions for them, see `torch_probabilities`.
        resize: how images of other aspect ratios were fitted; the service does the same.

    Raises:
        ParityError: the ONNX model and PyTorch disagree by more than `PARITY_TOLERANCE`.
        ArtifactError: the metadata breaks the contract.
    """
    start = time.perf_counter()
    images = test.images
    evaluation = evaluate(probabilities, test.labels, classes)
    full = to_onnx(network, images.shape[1:3], mean, std)
    model, parity, simplification = _simplest_faithful(full, images, probabilities)
    metadata = ArtifactMetadata(
        name=name,
        version=_UNSEALED,
        classes=tuple(classes),
        input_size=(images.shape[1], images.shape[2]),
        mean=_triple(mean),
        std=_triple(std),
        opset=OPSET,
        **asdict(provenance),
        test_metrics=scores(evaluation),
        quantisation="none",
        drift_reference=drift_reference(images, probabilities),
        parity=parity_vector(images, probabilities, PARITY_TOLERANCE),
        resize=resize,
    )
    metadata = write_artifact(model, metadata, path)
    return ExportReport(
        path=path,
        metadata=metadata,
        evaluation=evaluation,
        parity=parity,
        simplification=simplification,
        size_bytes=path.stat().st_size,
        elapsed_s=time.perf_counter() - start,
    )


def to_onnx(
    network: nn.Module,
    size: Sequence[int],
    mean: Sequence[float],
    std: Sequence[float],
) -> onnx.ModelProto:
    """The network's serving graph as a checked ONNX model with a dynamic batch axis."""
    graph = ServingGraph(copy.deepcopy(network).to("cpu", torch.float32).eval(), mean, std).eval()
    # A batch of 1 may be exported as a constant.
    example = torch.zeros(2, *size, 3, dtype=torch.uint8)
    with warnings.catch_warnings(), _quiet(logging.getLogger("torch.onnx")):
        warnings.simplefilter("ignore")  # deprecations inside the exporter
        program = torch.onnx.export(
            graph,
            (example,),
            dynamo=True,
            input_names=[INPUT],
            output_names=[LOGITS, PROBABILITIES],
            dynamic_shapes={INPUT: {0: torch.export.Dim("N", min=1)}},
            opset_version=OPSET,
            verbose=False,
        )
    assert program is not None
    model = canonical(program.model_proto)
    onnx.checker.check_model(model, full_check=True)
    return model


def scores(evaluation: Evaluation) -> Scores:
    """The metrics that are stored in the model."""
    return Scores(
        images=evaluation.images,
        accuracy=round(evaluation.accuracy, 6),
        macro_f1=round(evaluation.macro_f1, 6),
        loss=round(evaluation.loss, 6),
        calibration_error=round(evaluation.calibration_error, 6),
    )


def parity_vector(
    images: NDArray[np.uint8], probabilities: NDArray[np.float32], tolerance: float
) -> ParityVector:
    """The first images and their predictions."""
    rows = probabilities[:PARITY_IMAGES].astype(np.float64).round(7).tolist()
    return ParityVector(
        images=images[:PARITY_IMAGES].tobytes(),
        probabilities=tuple(tuple(row) for row in rows),
        tolerance=tolerance,
    )


def parity_gap(
    model: onnx.ModelProto, images: NDArray[np.uint8], probabilities: NDArray[np.float32]
) -> float:
    """Largest |difference| in probability, over all images and over each of `PROVED_BATCHES`."""
    session = new_session(model.SerializeToString())
    gaps = [np.abs(predict(session, images).probabilities - probabilities).max()]
    for batch in PROVED_BATCHES:
        rows = np.arange(batch) % len(images)
        answers = predict(session, images[rows], batch).probabilities
        gaps.append(np.abs(answers - probabilities[rows]).max())
    return float(np.max(gaps))  # NaN if any of them is


def _simplest_faithful(
    full: onnx.ModelProto, images: NDArray[np.uint8], probabilities: NDArray[np.float32]
) -> tuple[onnx.ModelProto, float, str]:
    """The simplified model if it keeps parity, else the full one, else ParityError."""
    simplified = simplify(full)
    note = simplified.note
    if simplified.succeeded:
        try:
            model, folded = fold_pooled_norms(simplified.model)
            gap = parity_gap(model, images, probabilities)
            if gap <= PARITY_TOLERANCE:
                return model, gap, f"{note}, {folded} batch normalisations folded through max-pools"
            note = f"kept unsimplified: simplification moved a probability by {gap:.2g}"
        except Exception as exc:  # a fixed batch axis, or an operator that onnxruntime lacks
            note = f"kept unsimplified: the simplified model does not run ({exc})"
    gap = parity_gap(full, images, probabilities)
    if not gap <= PARITY_TOLERANCE:
        raise ParityError(
            f"ONNX and PyTorch differ by {gap:.3g} in probability, expected at most "
            f"{PARITY_TOLERANCE:g}; nothing was written"
        )
    return full, gap, note


@contextmanager
def _quiet(logger: logging.Logger) -> Iterator[None]:
    """Errors only: the exporter warns about every optional operator library."""
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _channels(values: Sequence[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float32).view(1, -1, 1, 1)


def _triple(values: Sequence[float]) -> tuple[float, float, float]:
    """One value per channel; grey images repeat theirs."""
    red, green, blue = (float(value) for value in values) if len(values) > 1 else 3 * [*values]
    return red, green, blue
