"""The open inference protocol (KServe's and Triton's V2) over HTTP, for its clients.

https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/inference_rest.md
and of https://github.com/triton-inference-server/server/tree/main/docs/protocol the extensions for
binary data, classification and model configuration. Imported at its first use.
"""

import re
import time
import zlib
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec import UNSET, Meta, Struct, UnsetType
from starlette.types import Receive, Scope, Send

from common.images import Pixels
from common.model.artifact import CHANNELS, INPUT, PROBABILITIES, ArtifactMetadata
from serve.errors import NotFound, ServiceError
from serve.exchange import KEY, Exchange
from serve.http.bodies import Upload, read_body
from serve.http.middleware import JSON, header, respond
from serve.http.service import Readiness, Service
from serve.http.tensors import FILES, read_input, read_request, response, wanted_outputs
from serve.settings import MAX_IMAGES

EXTENSIONS = ["binary_tensor_data", "classification", "model_configuration"]
PLATFORM = "onnx_onnxv1"
_VERSION = "1"  # version of the service's interface, as in the OpenAPI document
_OCTETS = b"application/octet-stream"
_encode = msgspec.json.Encoder().encode


class ServerMetadata(Struct):
    """The server and its extensions."""

    name: str
    version: str
    extensions: list[str]


class TensorMetadata(Struct):
    """An input or an output; -1 stands for any size."""

    name: str
    datatype: str
    shape: list[int]


class ModelMetadata(Struct):
    """The model's inputs and outputs."""

    name: str
    versions: list[str]
    platform: str
    inputs: Annotated[list[TensorMetadata], Meta(description="A request has one of them.")]
    outputs: list[TensorMetadata]


class ServerHealth(Struct):
    """The state of the server."""

    live: bool
    ready: bool | UnsetType = UNSET


class ModelReady(Struct):
    """The state of the model."""

    name: str
    ready: bool


class InferenceError(Struct):
    """An error of the protocol: what is wrong, and what was expected."""

    error: str


async def answer(
    service: Service, readiness: Readiness, scope: Scope, receive: Receive, send: Send
) -> None:
    """Answers a request to one of the protocol's endpoints, whose route Starlette found.

    Raises:
        ServiceError: the middleware converts it to the protocol's error form.
    """
    operation = scope["route"].name.replace("Version", "")
    if operation == "inferModel":
        await _infer(service, scope, receive, send)
        return
    _check_model(service.predictor.metadata, scope["path_params"])
    if "Ready" in operation:
        readiness.check()
    content = _CONTENT[operation](service.predictor.metadata)
    await respond(send, _encode(content), headers=[(b"cache-control", b"no-store")])


def _check_model(metadata: ArtifactMetadata, named: Mapping[str, str]) -> None:
    for part, found in (("name", metadata.name), ("version", metadata.version)):
        if named.get(part, found) != found:
            said = named[part].encode("ascii", "backslashreplace").decode()[:200]
            raise NotFound(f"there is no model of the {part} {said}, expected {found}")


def _model_metadata(metadata: ArtifactMetadata) -> ModelMetadata:
    return ModelMetadata(
        metadata.name,
        [metadata.version],
        PLATFORM,
        [
            TensorMetadata(INPUT, "UINT8", [-1, *metadata.input_size, len(CHANNELS)]),
            TensorMetadata(FILES, "BYTES", [-1]),
        ],
        [TensorMetadata(PROBABILITIES, "FP32", [-1, len(metadata.classes)])],
    )


def _model_config(metadata: ArtifactMetadata) -> dict[str, Any]:
    """Triton's model configuration; `dims` leave out the batch axis."""
    pixels = {"name": INPUT, "data_type": "TYPE_UINT8", "format": "FORMAT_NHWC"}
    files = {"name": FILES, "data_type": "TYPE_STRING"}
    output = {"name": PROBABILITIES, "data_type": "TYPE_FP32", "dims": [len(metadata.classes)]}
    return {
        "name": metadata.name,
        "platform": "onnxruntime_onnx",
        "backend": "onnxruntime",
        "max_batch_size": MAX_IMAGES,
        "input": [
            {**pixels, "dims": [*metadata.input_size, len(CHANNELS)], "optional": True},
            {**files, "dims": [1], "optional": True},
        ],
        "output": [output],
    }


_CONTENT: dict[str, Callable[[ArtifactMetadata], Any]] = {
    "getServerMetadata": lambda _: ServerMetadata("kiln", _VERSION, EXTENSIONS),
    "getServerLive": lambda _: ServerHealth(True),
    "getServerReady": lambda _: ServerHealth(True, True),
    "getModelMetadata": _model_metadata,
    "getModelReady": lambda metadata: ModelReady(metadata.name, True),
    "getModelConfig": _model_config,
}


async def _infer(service: Service, scope: Scope, receive: Receive, send: Send) -> None:
    exchange: Exchange = scope[KEY]
    service.keys.check(scope)
    _check_model(service.predictor.metadata, scope["path_params"])
    body = await read_body(scope, receive, service.settings)
    exchange.decode_at = start = time.perf_counter()
    service.batcher.check_room()
    request, binary = read_request(scope, body)
    wanted_outputs(request)  # reject invalid output requests before anything runs
    found = read_input(request, binary, service.predictor.metadata.input_size)
    exchange.waiting = service.batcher.admitted
    with service.batcher.admission(len(found)):
        images = await _decoded(service, exchange, found) if isinstance(found, list) else found
        exchange.decode_s = time.perf_counter() - start
        await service.predict(exchange, images)
    exchange.encode_at = start = time.perf_counter()
    assert exchange.probabilities is not None
    said, behind = response(service.predictor.metadata, request, exchange.probabilities)
    headers = [(b"inference-header-content-length", b"%d" % len(said))] if behind else []
    content, packed = compressed(header(scope, b"accept-encoding") or b"", said + behind)
    exchange.encode_s = time.perf_counter() - start
    headers += [(b"vary", b"accept-encoding"), *packed]
    await respond(send, content, _OCTETS if behind else JSON, headers=headers)


async def _decoded(service: Service, exchange: Exchange, uploads: list[Upload]) -> Pixels:
    images = []
    for one in await service.decode(exchange, uploads):
        if isinstance(one, ServiceError):  # the protocol has no errors of single images
            raise one
        images.append(one)
    return np.stack(images)


# Zlib window bits, plus 16 for gzip framing; HTTP's "deflate" is zlib format (RFC 9110, 8.4.1.2).
_FRAMES = {b"gzip": zlib.MAX_WBITS + 16, b"deflate": zlib.MAX_WBITS}
_REFUSED = re.compile(rb";\s*q=0(\.0*)?\s*$")


def compressed(accepted: bytes, body: bytes) -> tuple[bytes, list[tuple[bytes, bytes]]]:
    """The body in the client's preferred encoding, if that makes it smaller."""
    for one in accepted.lower().split(b","):
        name = one.partition(b";")[0].strip()
        if name in _FRAMES and not _REFUSED.search(one):
            packed = zlib.compress(body, 1, _FRAMES[name])
            if len(packed) < len(body):
                return packed, [(b"content-encoding", name)]
            break
    return body, []
