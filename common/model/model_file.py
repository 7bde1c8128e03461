"""Reads the version and metadata of an ONNX file with the standard library alone.

The version is the SHA-256 of every top-level protobuf field of the model but the metadata entries,
so it names graph and weights, does not depend on the metadata, and changes with any other byte.
"""

import hashlib
from collections.abc import Iterator
from typing import NamedTuple


class ArtifactError(ValueError):
    """Not a Kiln model artifact, or modified since; the message says which."""


class ModelFile(NamedTuple):
    """Version (64 hexadecimal digits) and metadata entries of an ONNX file."""

    version: str
    metadata_props: dict[str, str]


# Field numbers of onnx.ModelProto; https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
_GRAPH = 7
METADATA_PROPS = 14
_MODEL_FIELDS = {1, 2, 3, 4, 5, 6, _GRAPH, 8, METADATA_PROPS, 20, 25, 26}
_KEY, _VALUE = 1, 2

_VARINT, _BYTES = 0, 2


def read_model_file(data: bytes) -> ModelFile:
    """Parses the top level of a serialised onnx.ModelProto.

    Raises:
        ArtifactError: the bytes are empty, truncated, or not an ONNX model.
    """
    digest, props, has_graph = hashlib.sha256(), dict[str, str](), False
    for field in wire_fields(memoryview(data)):
        if field.number not in _MODEL_FIELDS:
            raise ArtifactError(
                f"not an ONNX model: unknown field {field.number} at byte {field.start}"
            )
        if field.number == METADATA_PROPS:
            key, value = _entry(field)
            if key in props:
                raise ArtifactError(f"metadata key {key!r} appears twice")
            props[key] = value
            continue
        has_graph |= field.number == _GRAPH
        digest.update(field.raw)
    if not has_graph:
        raise ArtifactError("not an ONNX model: it holds no graph (empty or truncated file?)")
    return ModelFile(digest.hexdigest(), props)


class _Field(NamedTuple):
    number: int
    wire_type: int
    start: int
    raw: memoryview  # with its tag
    body: memoryview  # of a length-delimited field, else empty


def wire_fields(data: memoryview) -> Iterator[_Field]:
    """The top-level fields of a serialised message; their bodies are not parsed.

    Raises:
        ArtifactError: the bytes are truncated, or no message of ONNX.
    """
    position = 0
    while position < len(data):
        start = position
        tag, position = _varint(data, position)
        number, wire_type = tag >> 3, tag & 7
        value, position = _varint(data, position)
        body = data[:0]
        if wire_type == _BYTES:
            body = data[position : position + value]
            position += value
            if position > len(data):
                missing = position - len(data)
                raise ArtifactError(f"truncated: {missing} bytes of field {number} are missing")
        elif wire_type != _VARINT:
            raise ArtifactError(f"not an ONNX model: wire type {wire_type} at byte {start}")
        yield _Field(number, wire_type, start, data[start:position], body)


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(data):
            raise ArtifactError("truncated: the file ends inside a number")
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ArtifactError(f"not an ONNX model: number longer than 10 bytes before byte {position}")


def _entry(field: _Field) -> tuple[str, str]:
    """Key and value of a StringStringEntryProto."""
    if field.wire_type != _BYTES:
        raise ArtifactError(
            f"not an ONNX model: metadata entry without a body at byte {field.start}"
        )
    parts = {_KEY: "", _VALUE: ""}
    for part in wire_fields(field.body):
        if part.number not in parts or part.wire_type != _BYTES:
            raise ArtifactError(f"damaged metadata entry at byte {field.start}")
        try:
            parts[part.number] = bytes(part.body).decode()
        except UnicodeDecodeError as exc:
            raise ArtifactError(f"metadata entry at byte {field.start} is not UTF-8") from exc
    return parts[_KEY], parts[_VALUE]
