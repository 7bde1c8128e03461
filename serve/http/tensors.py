"""Tensors of the open inference protocol in requests and responses.

The model has two alternative inputs: `images`, pixels of its own size, and `image_files`, files of
any size as BYTES, base64 in JSON. Binary tensors follow the JSON; each BYTES element is prefixed by
its length.
"""

import re
import struct
from collections.abc import Iterator
from contextlib import suppress
from typing import Annotated, Any, NamedTuple

import msgspec
import numpy as np
from msgspec import UNSET, Meta, Raw, Struct, UnsetType
from numpy.typing import NDArray
from starlette.types import Scope

from common.images import Pixels
from common.model.artifact import CHANNELS, INPUT, PROBABILITIES, ArtifactMetadata
from serve.errors import InvalidTensor, MalformedJson
from serve.http.bodies import BYTE_ORDER_MARK, Options, Upload, from_base64, whole
from serve.http.middleware import header
from serve.http.service import prediction
from serve.settings import MAX_IMAGES

FILES = "image_files"
_HEADER_LENGTH = b"inference-header-content-length"
_encode = msgspec.json.Encoder().encode

Parameters = dict[str, Any] | None
Shape = Annotated[
    list[Any],  # 3.0 is an integer in JSON Schema, and not in msgspec
    Meta(
        description="[n, height, width, 3] for images, [n] for files.",
        extra_json_schema={"items": {"type": "integer", "minimum": 0, "maximum": 2**63 - 1}},
    ),
]


class RequestInput(Struct):
    """A tensor; its elements are in data, or after the JSON if binary_data_size is given."""

    name: Annotated[str, Meta(description="images or image_files.")]
    shape: Shape
    datatype: Annotated[str, Meta(description="UINT8 for images, BYTES for files.")]
    parameters: Annotated[Parameters, Meta(description="binary_data_size: its size in bytes.")] = (
        None
    )
    data: Annotated[
        Raw | UnsetType,
        Meta(description="Row by row, flat or nested: 0 to 255, or files in base64."),
    ] = UNSET


class RequestOutput(Struct):
    """A requested output and its form."""

    name: Annotated[str, Meta(description="probabilities.")]
    parameters: Annotated[
        Parameters,
        Meta(description="binary_data: after the JSON; classification: number of top classes."),
    ] = None


class InferRequest(Struct):
    """An inference request; unknown members are ignored."""

    # Without msgspec's check, whose message names no input.
    inputs: Annotated[list[RequestInput], Meta(extra_json_schema={"minItems": 1})]
    outputs: list[RequestOutput] | None = None
    id: Annotated[str | None, Meta(description="Returned in the response.")] = None
    parameters: Annotated[
        Parameters, Meta(description="binary_data_output: outputs after the JSON.")
    ] = None


class ResponseOutput(Struct):
    """A tensor; its elements are in data, or after the JSON if binary_data_size is given."""

    name: str
    datatype: Annotated[str, Meta(description="FP32, or BYTES for classifications.")]
    shape: list[int]
    parameters: dict[str, Any] | UnsetType = UNSET
    data: Annotated[
        list[Any] | UnsetType,
        Meta(description="Row by row; a classification is probability:index:label."),
    ] = UNSET


class InferResponse(Struct):
    """An inference response."""

    model_name: str
    model_version: str
    outputs: list[ResponseOutput]
    id: str | UnsetType = UNSET


def read_request(scope: Scope, body: bytes) -> tuple[InferRequest, bytes]:
    """The request, and the bytes after its JSON.

    Raises:
        MalformedJson: it is not JSON.
        InvalidTensor: the message says what is wrong.
    """
    length, binary = header(scope, _HEADER_LENGTH), b""
    if length is not None:
        if not re.fullmatch(rb"[0-9]{1,18}", length) or int(length) > len(body):
            raise InvalidTensor(
                f"it is {ascii(length.decode('latin-1'))[:50]}, expected the bytes of JSON in a "
                f"body of {len(body)}",
                field="Inference-Header-Content-Length",
            )
        body, binary = body[: int(length)], body[int(length) :]
    try:
        return _REQUEST.decode(body.removeprefix(BYTE_ORDER_MARK)), binary
    except msgspec.ValidationError as exc:
        raise InvalidTensor(str(exc)) from exc
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise MalformedJson(str(exc), field="body") from exc


_REQUEST = msgspec.json.Decoder(InferRequest)


class Wanted(NamedTuple):
    """The requested form of the probabilities."""

    binary: bool
    classes: int = 0  # number of top classes; 0: the tensor itself


def wanted_outputs(request: InferRequest) -> Wanted:
    """The requested outputs; by default all, of which there is one.

    Raises:
        InvalidTensor: there is no such output, or a parameter has another type.
    """
    binary = _parameter(request.parameters, "binary_data_output", bool, False, "parameters")
    names = [one.name for one in request.outputs or ()]
    if not names:
        return Wanted(binary)
    if names != [PROBABILITIES]:
        said = ", ".join(map(ascii, names))[:200]
        raise InvalidTensor(f"the outputs are {said}, expected {PROBABILITIES}", field="outputs")
    (parameters,) = (one.parameters for one in request.outputs or ())
    return Wanted(
        _parameter(parameters, "binary_data", bool, binary, PROBABILITIES),
        _parameter(parameters, "classification", int, 0, PROBABILITIES),
    )


def _parameter(
    parameters: Parameters, name: str, kind: type[int], otherwise: int, field: str
) -> Any:
    found = whole((parameters or {}).get(name, otherwise))
    if type(found) is not kind or found < 0:
        expected = "true or false" if kind is bool else "a whole number"
        raise InvalidTensor(f"{name} is {ascii(found)[:50]}, expected {expected}", field=field)
    return found


_BYTES = "BYTES", [[], [1]]  # for image_files: [n], or [n, 1] as Triton's clients batch


def read_input(
    request: InferRequest, binary: bytes, input_size: tuple[int, int]
) -> Pixels | list[Upload]:
    """The images: (n, H, W, 3) pixels, or files still to be decoded.

    Raises:
        InvalidTensor: names the input and what is wrong with it.
    """
    if len(request.inputs) != 1 or request.inputs[0].name not in (INPUT, FILES):
        names = ", ".join(ascii(one.name) for one in request.inputs)[:200] or "none"
        raise InvalidTensor(f"they are {names}, expected {INPUT} or {FILES}", field="inputs")
    (one,) = request.inputs
    one.shape = [whole(side) for side in one.shape]
    is_pixels = one.name == INPUT
    datatype, sizes = ("UINT8", [[*input_size, len(CHANNELS)]]) if is_pixels else _BYTES
    if one.datatype != datatype:
        said = ascii(one.datatype)[:50]
        raise InvalidTensor(f"the datatype is {said}, expected {datatype}", field=one.name)
    is_whole = all(type(side) is int for side in one.shape)
    if not (one.shape and is_whole and one.shape[1:] in sizes):
        said, expected = ascii(one.shape)[:100], ", ".join(map(str, ["n", *sizes[0]]))
        raise InvalidTensor(f"the shape is {said}, expected [{expected}]", field=one.name)
    if not 1 <= one.shape[0] <= MAX_IMAGES:
        raise InvalidTensor(
            f"it has {one.shape[0]} images, expected 1 to {MAX_IMAGES}", field=one.name
        )
    is_binary = _is_binary(one, binary)
    if is_pixels:
        return _pixels(one, binary) if is_binary else _pixels_of_json(one)
    if is_binary:
        elements = enumerate(_elements(binary, one.shape[0]))
        return [Upload(f"{FILES}[{index}]", data) for index, data in elements]
    return _files_of_json(one)


def _is_binary(one: RequestInput, binary: bytes) -> bool:
    parameters = one.parameters or {}
    if shared := [name for name in parameters if name.startswith("shared_memory_")]:
        raise InvalidTensor(f"shared memory is not supported ({shared[0]})", field=one.name)
    is_binary = "binary_data_size" in parameters
    if is_binary == (one.data is not UNSET):
        raise InvalidTensor("expected data or binary_data_size, one of the two", field=one.name)
    size = _parameter(parameters, "binary_data_size", int, 0, one.name)
    if size != len(binary):
        raise InvalidTensor(
            f"binary_data_size is {size}, but {len(binary)} bytes follow the JSON, whose length "
            "Inference-Header-Content-Length tells",
            field=one.name,
        )
    return is_binary


def _pixels(one: RequestInput, binary: bytes) -> Pixels:
    if len(binary) != np.prod(one.shape):
        raise InvalidTensor(
            f"it has {len(binary)} bytes, expected {np.prod(one.shape)} for {one.shape}",
            field=one.name,
        )
    return np.frombuffer(binary, np.uint8).reshape(one.shape)


_Byte = Annotated[int, Meta(ge=0, le=255)]
_FLAT = msgspec.json.Decoder(list[_Byte])
_NESTED = msgspec.json.Decoder(list[list[list[list[_Byte]]]])
_Level = Annotated[float, Meta(ge=0, le=255)]
_FLAT_LEVELS = msgspec.json.Decoder(list[_Level])
_NESTED_LEVELS = msgspec.json.Decoder(list[list[list[list[_Level]]]])


def _pixels_of_json(one: RequestInput) -> Pixels:
    try:
        found = _elements_of_json(one, _FLAT, _NESTED)
    except InvalidTensor as exc:
        if "got `float`" not in str(exc):
            raise
        found = _whole_levels(one)
    try:
        pixels = np.array(found, np.uint8)
    except ValueError:  # rows of different lengths
        pixels = np.zeros(0, np.uint8)
    if pixels.ndim == 1 and pixels.size == np.prod(one.shape):
        return pixels.reshape(one.shape)
    if list(pixels.shape) != one.shape:
        raise InvalidTensor(
            f"the data are not of the shape {one.shape}: expected {np.prod(one.shape)} numbers, "
            "flat or nested",
            field=one.name,
        )
    return pixels


def _whole_levels(one: RequestInput) -> Any:
    """The levels from clients that write integers as 3.0; may hold rows of different lengths."""
    found = _elements_of_json(one, _FLAT_LEVELS, _NESTED_LEVELS)
    with suppress(ValueError):  # the caller refuses these rows
        if (np.array(found) % 1).any():
            raise InvalidTensor("data: expected whole numbers", field=one.name)
    return found


_FLAT_TEXTS = msgspec.json.Decoder(list[str])
_NESTED_TEXTS = msgspec.json.Decoder(list[Annotated[list[str], Meta(min_length=1, max_length=1)]])


def _files_of_json(one: RequestInput) -> list[Upload]:
    found = _elements_of_json(one, _FLAT_TEXTS, _NESTED_TEXTS)
    texts = [text if isinstance(text, str) else text[0] for text in found]
    if len(texts) != one.shape[0]:
        raise InvalidTensor(
            f"it has {len(texts)} elements, expected {one.shape[0]}", field=one.name
        )
    return [from_base64(f"{FILES}[{index}]", text) for index, text in enumerate(texts)]


def _elements_of_json(
    one: RequestInput, flat: msgspec.json.Decoder[Any], nested: msgspec.json.Decoder[Any]
) -> list[Any]:
    text = bytes(one.data) if isinstance(one.data, Raw) else b""
    is_nested = re.match(rb"\s*\[\s*\[", text)
    try:
        elements: list[Any] = (nested if is_nested else flat).decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise InvalidTensor(f"data: {exc}", field=one.name) from exc
    return elements


def _elements(binary: bytes, count: int) -> Iterator[bytes]:
    """Each is prefixed by its length in four bytes, little-endian."""
    position = 0
    for index in range(count):
        start = position + 4
        length = int.from_bytes(binary[position:start], "little")
        position = start + length
        if position > len(binary):
            raise InvalidTensor(
                f"it needs {position} bytes, got {len(binary)}", field=f"{FILES}[{index}]"
            )
        yield binary[start:position]
    if position != len(binary):
        raise InvalidTensor(
            f"{len(binary) - position} bytes follow the last of {count} elements", field=FILES
        )


def response(
    metadata: ArtifactMetadata, request: InferRequest, rows: NDArray[np.float32]
) -> tuple[bytes, bytes]:
    """The JSON of a response for (n, K) probabilities, and the bytes after it."""
    wanted = wanted_outputs(request)
    data: NDArray[np.float32] | list[str] = rows
    output = ResponseOutput(PROBABILITIES, "FP32", list(rows.shape))
    if wanted.classes:
        options = Options(top_k=min(wanted.classes, len(metadata.classes)))
        data = [
            f"{one.probability:.6f}:{one.index}:{one.label}"
            for row in rows
            for one in prediction(row, metadata.classes, options).top_k
        ]
        output = ResponseOutput(PROBABILITIES, "BYTES", [len(rows), options.top_k])
    behind = b""
    if wanted.binary:
        behind = _in_bytes(data)
        output.parameters = {"binary_data_size": len(behind)}
    else:
        output.data = data if isinstance(data, list) else data.ravel().tolist()
    identity = UNSET if request.id is None else request.id
    return _encode(InferResponse(metadata.name, metadata.version, [output], identity)), behind


def _in_bytes(data: NDArray[np.float32] | list[str]) -> bytes:
    if isinstance(data, list):
        texts = [text.encode() for text in data]
        return b"".join(struct.pack("<I", len(text)) + text for text in texts)
    return data.astype("<f4").tobytes()
