"""What training and serving agree on: a model artifact's signature and the metadata inside it."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from serve.contract.codec import FIELDS, shortened, to_json
from serve.contract.model_file import ArtifactError, read_model_file
from serve.contract.values import (
    CHANNELS,
    DriftReference,
    ParityVector,
    Scores,
    SignalReference,
)

__all__ = [
    "CHANNELS",
    "INPUT",
    "LOGITS",
    "PROBABILITIES",
    "ArtifactError",
    "ArtifactMetadata",
    "DriftReference",
    "ParityVector",
    "Scores",
    "SignalReference",
    "read_artifact",
]

SCHEMA = "2"  # 2: the drift reference holds signals in bins of equal shares
INPUT = "images"  # uint8[N,H,W,3], RGB, 0..255
LOGITS = "logits"  # float32[N,K]
PROBABILITIES = "probabilities"  # float32[N,K], rows sum to one

_PREFIX = "kiln."
_SCHEMA_KEY = _PREFIX + "schema"
_DIGEST_KEY = _PREFIX + "metadata_digest"


@dataclass(frozen=True)
class ArtifactMetadata:
    """Everything a model artifact says about itself."""

    name: str
    version: str  # digest of graph and weights, 64 hexadecimal digits
    classes: tuple[str, ...]
    input_size: tuple[int, int]  # height, width in pixels
    mean: tuple[float, float, float]  # of the channels scaled to 0..1; applied inside the graph
    std: tuple[float, float, float]
    opset: int
    git_revision: str
    config_digest: str
    dataset_digest: str
    lock_digest: str
    test_metrics: Scores
    quantisation: Literal["none", "int8"]
    drift_reference: DriftReference
    parity: ParityVector
    device: str  # that it was trained on
    precision: str  # that it was trained with

    def __post_init__(self) -> None:
        """Refuse values that contradict each other."""
        if problems := [*_inconsistencies(self)]:
            raise ArtifactError("; ".join(problems))

    def to_metadata_props(self) -> dict[str, str]:
        """ONNX metadata entries, sorted by key.

        Raises:
            ArtifactError: a value is one that no reader would take.
        """
        props = {
            _PREFIX + f.name: FIELDS[f.name].encode(getattr(self, f.name)) for f in fields(self)
        }
        props[_SCHEMA_KEY] = SCHEMA
        props[_DIGEST_KEY] = _metadata_digest(props)
        self.from_metadata_props(props)
        return dict(sorted(props.items()))

    @classmethod
    def from_metadata_props(cls, props: Mapping[str, str]) -> "ArtifactMetadata":
        """The metadata in an ONNX file's entries; keys of others are left alone.

        Raises:
            ArtifactError: names every key that is missing or wrong, and what was expected.
        """
        if not any(key.startswith(_PREFIX) for key in props):
            raise ArtifactError(
                f"foreign ONNX model: no metadata key starts with {_PREFIX!r}; "
                "Kiln serves what //ml:train and //ml:export wrote"
            )
        if (schema := props.get(_SCHEMA_KEY)) != SCHEMA:
            raise ArtifactError(
                f"{_SCHEMA_KEY} is {schema!r}, expected {SCHEMA!r}: "
                "another release of Kiln wrote it, export the model again"
            )
        values, problems = dict[str, Any](), list[str]()
        for name, field in FIELDS.items():
            key = _PREFIX + name
            if key not in props:
                problems.append(f"{key} is missing, expected {field.expectation}")
                continue
            try:
                values[name] = field.decode(props[key])
            except (ValueError, TypeError, KeyError, RecursionError, OverflowError):
                problems.append(f"{key} is {shortened(props[key])}, expected {field.expectation}")
        if problems:
            raise ArtifactError("; ".join(problems))
        metadata = cls(**values)
        if (digest := props.get(_DIGEST_KEY)) != (expected := _metadata_digest(props)):
            raise ArtifactError(
                f"{_DIGEST_KEY} is {digest!r}, expected {expected}: "
                "the metadata was changed after export"
            )
        return metadata


def read_artifact(data: bytes) -> ArtifactMetadata:
    """The metadata of a serialised model artifact, once its graph and weights match its version.

    Raises:
        ArtifactError: the bytes are truncated, foreign or tampered with; the message says which.
    """
    file = read_model_file(data)
    metadata = ArtifactMetadata.from_metadata_props(file.metadata_props)
    if metadata.version != file.version:
        raise ArtifactError(
            f"{_PREFIX}version is {metadata.version}, but the digest of graph and weights is "
            f"{file.version}: the model was changed after export"
        )
    return metadata


def _metadata_digest(props: Mapping[str, str]) -> str:
    ours = {
        key: value for key, value in props.items() if key.startswith(_PREFIX) and key != _DIGEST_KEY
    }
    return hashlib.sha256(to_json(ours).encode()).hexdigest()


def _inconsistencies(metadata: ArtifactMetadata) -> list[str]:
    """What no single key shows: counts that must agree with the classes and the input size."""
    problems, classes = [], len(metadata.classes)
    if (priors := len(metadata.drift_reference.class_priors)) != classes:
        problems.append(
            f"{_PREFIX}drift_reference has {priors} class priors, expected {classes}: one per class"
        )
    if any(len(row) != classes for row in metadata.parity.probabilities):
        problems.append(
            f"{_PREFIX}parity has rows that are not {classes} probabilities long: one per class"
        )
    height, width = metadata.input_size
    expected = len(metadata.parity.probabilities) * height * width * len(CHANNELS)
    if (found := len(metadata.parity.images)) != expected:
        problems.append(
            f"{_PREFIX}parity has {found} bytes of images, "
            f"expected {expected}: N x {height} x {width} x 3"
        )
    return problems
