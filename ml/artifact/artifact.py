"""Writes, loads and verifies model artifacts: ONNX files with embedded metadata."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from common.files import user_path, write_whole
from common.model.artifact import (
    CHANNELS,
    INPUT,
    LOGITS,
    PROBABILITIES,
    ArtifactError,
    ArtifactMetadata,
    DriftReference,
    SignalReference,
    read_artifact,
)
from common.model.model_file import read_model_file
from common.model.signals import CONFIDENCE, IMAGE_SIGNALS, SIGNALS, image_signals
from common.resources import batch_within_memory

__all__ = [
    "Artifact",
    "ArtifactError",
    "Predictions",
    "canonical",
    "load_artifact",
    "model_version",
    "new_session",
    "predict",
    "write_artifact",
]

_BATCH = 500  # maximum batch size
_NOT_THE_MODEL = ("doc_string", "metadata_props", "value_info", "producer_version")


class Predictions(NamedTuple):
    """Logits and probabilities, (N, K) each."""

    logits: NDArray[np.float32]
    probabilities: NDArray[np.float32]


@dataclass(frozen=True)
class Artifact:
    """A verified model, ready for inference."""

    metadata: ArtifactMetadata
    session: ort.InferenceSession

    def predict(self, images: NDArray[np.uint8]) -> Predictions:
        """Predictions for (N, H, W, 3) RGB images."""
        return predict(self.session, images)


def canonical(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy with only graph and weights: no comments, stack traces, paths or inferred shapes."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    _clear(copy)
    copy.producer_name = "kiln"
    return copy


def model_version(model: onnx.ModelProto) -> str:
    """Digest of graph and weights, independent of metadata."""
    return read_model_file(_serialise(canonical(model))).version


def write_artifact(
    model: onnx.ModelProto, metadata: ArtifactMetadata, path: Path
) -> ArtifactMetadata:
    """Adds metadata to a model and writes it atomically.

    Returns:
        The metadata as written, with the version computed from `model`.

    Raises:
        ArtifactError: the metadata or the model's signature breaks the contract.
    """
    sealed = canonical(model)
    metadata = replace(metadata, version=model_version(sealed))
    for key, value in metadata.to_metadata_props().items():
        sealed.metadata_props.add(key=key, value=value)
    data = _serialise(sealed)
    _verified(data, threads=1)
    write_whole(path, data)
    return metadata


def load_artifact(path: Path, threads: int = 0) -> Artifact:
    """Reads an artifact and verifies version, metadata, signature and parity vector.

    Args:
        threads: intra-op threads; 0 means one per core.

    Raises:
        ArtifactError: the file is truncated, foreign or tampered with; the message says which.
        OSError: the file cannot be read.
    """
    try:
        return _verified(path.read_bytes(), threads)
    except ArtifactError as exc:
        raise ArtifactError(f"{path} is refused: {exc}") from exc


def new_session(model: bytes, threads: int = 0) -> ort.InferenceSession:
    """A CPU session; `threads` as for `load_artifact`, bounded by OMP_NUM_THREADS as in PyTorch.

    Raises:
        ArtifactError: the runtime cannot load the model.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads or int(os.environ.get("OMP_NUM_THREADS") or 0)
    options.log_severity_level = 3  # errors only; warnings are meant for exporter developers
    try:
        return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as exc:  # onnxruntime raises a dozen unrelated exception classes
        raise ArtifactError(f"onnxruntime cannot load it: {exc}") from exc


def predict(
    session: ort.InferenceSession, images: NDArray[np.uint8], batch: int | None = None
) -> Predictions:
    """Predictions for (N, H, W, 3) images, N >= 1, in batches of `batch`; None picks a fast size
    that fits into memory.
    """
    batch = batch or batch_within_memory(images[0].size, _BATCH)
    parts = [
        session.run([LOGITS, PROBABILITIES], {INPUT: images[i : i + batch]})
        for i in range(0, len(images), batch)
    ]
    logits, probabilities = (np.concatenate(part) for part in zip(*parts, strict=True))
    return Predictions(logits, probabilities)


def _clear(message: Any) -> None:
    for name in _NOT_THE_MODEL:
        if name in message.DESCRIPTOR.fields_by_name:
            message.ClearField(name)
    for field, value in message.ListFields():
        if field.type == field.TYPE_MESSAGE:
            for part in value if isinstance(value, Sequence) else [value]:
                _clear(part)


def _serialise(model: onnx.ModelProto) -> bytes:
    return bytes(model.SerializeToString(deterministic=True))


def _verified(data: bytes, threads: int) -> Artifact:
    metadata = read_artifact(data)
    session = new_session(data, threads)
    _check_signature(session, metadata)
    _check_parity(session, metadata)
    return Artifact(metadata, session)


def _check_signature(session: ort.InferenceSession, metadata: ArtifactMetadata) -> None:
    height, width = metadata.input_size
    classes = len(metadata.classes)
    expected = {
        INPUT: ("tensor(uint8)", [height, width, len(CHANNELS)]),
        LOGITS: ("tensor(float)", [classes]),
        PROBABILITIES: ("tensor(float)", [classes]),
    }
    found = {s.name: s for s in (*session.get_inputs(), *session.get_outputs())}
    if found.keys() != expected.keys():
        raise ArtifactError(f"its signature is {sorted(found)}, expected {sorted(expected)}")
    for name, (kind, rest) in expected.items():
        signal: Any = found[name]
        if signal.type != kind or signal.shape[1:] != rest or isinstance(signal.shape[0], int):
            shape = ["N", *rest]
            raise ArtifactError(
                f"{name} is {signal.type}{signal.shape}, expected {kind}{shape} with any N"
            )


def _check_parity(session: ort.InferenceSession, metadata: ArtifactMetadata) -> None:
    parity = metadata.parity
    images = np.frombuffer(parity.images, np.uint8).reshape(-1, *metadata.input_size, len(CHANNELS))
    difference = np.abs(predict(session, images).probabilities - parity.probabilities).max()
    if not difference <= parity.tolerance:
        raise ArtifactError(
            f"it answers its parity vector with a difference of {difference:.2g} in probability, "
            f"expected at most {parity.tolerance:.2g}: this machine computes different results"
        )


BINS = 20
_CHUNK = 1000  # maximum number of images converted to floats at a time

Signals = dict[str, NDArray[np.float64]]


def drift_reference(
    images: NDArray[np.uint8], probabilities: NDArray[np.floating]
) -> DriftReference:
    """Summarises reference images and their predictions.

    Args:
        images: (N, H, W, 3), RGB, N >= 1.
        probabilities: (N, K), the model's predictions.
    """
    return reference_of(measured(images, probabilities), predicted_counts(probabilities))


def measured(images: NDArray[np.uint8], probabilities: NDArray[np.floating]) -> Signals:
    """Every signal's value for each of (N, H, W, 3) images and their (N, K) predictions."""
    size = batch_within_memory(images[0].size, _CHUNK)
    chunks = [image_signals(images[i : i + size]) for i in range(0, len(images), size)]
    values = {name: np.concatenate([chunk[name] for chunk in chunks]) for name in IMAGE_SIGNALS}
    values[CONFIDENCE] = probabilities.max(axis=1)
    return {name: values[name].astype(np.float64) for name in SIGNALS}


def predicted_counts(probabilities: NDArray[np.floating]) -> NDArray[np.int64]:
    """(K,): number of predictions of each class."""
    return np.bincount(probabilities.argmax(axis=1), minlength=probabilities.shape[1])


def reference_of(signals: Signals, class_counts: NDArray[np.int64]) -> DriftReference:
    """Summarises measurements of the reference images: (N,) values per signal, (K,) counts."""
    return DriftReference(
        images=int(class_counts.sum()),
        class_priors=_shares(class_counts),
        signals=tuple(_reference(name, signals[name]) for name in SIGNALS),
    )


def bins_of(signal: SignalReference, values: NDArray[np.float64]) -> NDArray[np.int64]:
    """(N,): the bin of each value."""
    return np.searchsorted(signal.edges, values, side="right")


def _reference(name: str, values: NDArray[np.float64]) -> SignalReference:
    """Bin edges at the reference's quantiles: no bin is empty, however skewed the signal."""
    ranked = np.sort(values)
    cuts = ranked[np.arange(1, BINS) * len(ranked) // BINS]
    edges = sorted({float(f"{cut:.7g}") for cut in cuts if cut > ranked[0]} or {float(ranked[0])})
    counts = np.bincount(np.searchsorted(edges, values, side="right"), minlength=len(edges) + 1)
    return SignalReference(
        name=name,
        mean=round(float(values.mean()), 6),
        std=round(float(values.std()), 6),
        edges=tuple(edges),
        shares=_shares(counts),
    )


def _shares(counts: NDArray[np.int64]) -> tuple[float, ...]:
    return tuple(round(float(share), 6) for share in counts / counts.sum())


BUNDLED = Path(__file__).parents[1] / "bundled" / "model.onnx"
BUNDLED_MODELS = (BUNDLED, BUNDLED.with_name("model.int8.onnx"))  # fp32, INT8


def model_path(text: str | None) -> Path:
    """The model file for an argument: a file, a run folder's, or the bundled one.

    Raises:
        ArtifactError: the file does not exist.
    """
    path = user_path(text) if text else BUNDLED
    if path.is_dir():
        path /= "model.onnx"
    if not path.is_file():
        raise ArtifactError(f"{path} is not a file: expected a model.onnx, or a run folder")
    return path
