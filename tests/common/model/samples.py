"""A complete artifact, small enough to read."""

from dataclasses import replace
from typing import Any

from common.model.artifact import (
    ArtifactMetadata,
    DriftReference,
    ParityVector,
    Scores,
    SignalReference,
)
from common.model.signals import SIGNALS

HALVES = (0.5, 0.5)


def sample_metadata(**changes: Any) -> ArtifactMetadata:
    """Two classes, 4 x 5 pixels, one parity image."""
    signals = tuple(SignalReference(name, 0.5, 0.25, (0.5,), HALVES) for name in SIGNALS)
    metadata = ArtifactMetadata(
        name="pebbles",
        version="0" * 64,
        classes=("round", "flat"),
        input_size=(4, 5),
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
        opset=20,
        git_revision="a" * 40,
        config_digest="b" * 64,
        dataset_digest="md5:" + "c" * 32,
        lock_digest="d" * 64,
        test_metrics=Scores(100, 0.94, 0.93, 0.21, 0.02),
        quantisation="none",
        drift_reference=DriftReference(100, HALVES, signals),
        parity=ParityVector(bytes(range(60)), ((0.125, 0.875),), 1e-4),
        device="cpu",
        precision="32-true",
    )
    return replace(metadata, **changes)


def varint(number: int) -> bytes:
    """Protobuf's base-128 number."""
    low, high = number & 0x7F, number >> 7
    return bytes([low | 0x80]) + varint(high) if high else bytes([low])


def length_delimited(number: int, body: bytes) -> bytes:
    """A protobuf field that holds bytes."""
    return varint(number << 3 | 2) + varint(len(body)) + body


def model_bytes(props: dict[str, str], graph: bytes = b"graph and weights") -> bytes:
    """An onnx.ModelProto as far as the contract looks into it."""
    entries = b"".join(
        length_delimited(14, length_delimited(1, k.encode()) + length_delimited(2, v.encode()))
        for k, v in props.items()
    )
    return varint(1 << 3) + varint(10) + length_delimited(7, graph) + entries
