"""The OpenAPI 3.1 document, generated from the types that validate requests.

`bazel run //serve:openapi` regenerates serve/site/openapi.json, and a test compares the two; cold
starts read the file.
"""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from serve import errors
from serve.errors import PROBLEM, ServiceError
from serve.http import open_inference, schemas, tensors
from serve.http.bodies import BATCH_OPTIONS, PREDICT_OPTIONS
from serve.http.routes import ENDPOINTS
from serve.settings import MAX_IMAGES

_FILE = Path("serve/site/openapi.json")
_REF = "#/components/schemas/{name}"
_DOCUMENTS = (
    schemas.PredictRequest,
    schemas.PredictResponse,
    schemas.BatchRequest,
    schemas.BatchResponse,
    schemas.Feedback,
    schemas.FeedbackResponse,
    schemas.Problem,
    schemas.Status,
    schemas.ModelInfo,
    schemas.Samples,
    open_inference.ServerMetadata,
    open_inference.ServerHealth,
    open_inference.ModelMetadata,
    open_inference.ModelReady,
    tensors.InferRequest,
    tensors.InferResponse,
    open_inference.InferenceError,
)

Json = dict[str, Any]
_BODY_ERRORS = (
    errors.MalformedJson,
    errors.MalformedForm,
    errors.MalformedEncoding,
    errors.Unauthorized,
    errors.BodyTimeout,
    errors.BodyTooLarge,
    errors.UnsupportedMediaType,
    errors.InvalidField,
    errors.Overloaded,
)
_KEYS: list[Json] = [{"key": []}, {"bearer": []}]
_IMAGE_ERRORS = (errors.ImageTooLarge, errors.UnsupportedImage, errors.UnreadableImage)


def document() -> Json:
    operations = _operations()
    _, components = msgspec.json.schema_components(_DOCUMENTS, ref_template=_REF)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Kiln",
            "version": "1",
            "summary": "Image classification.",
            "description": (
                "Every response, errors too, carries X-Request-ID, which is also the trace id "
                "(send traceparent to name the trace), and X-Model-Version. Errors are problem "
                "documents of RFC 9457, below /v2 those of the open inference protocol. Bodies "
                "may be compressed by gzip or deflate."
            ),
            "license": {"name": "Apache 2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "."}],
        "paths": {
            one.path: {
                one.method.lower(): {"operationId": one.operation, **operations[one.operation]}
            }
            for one in ENDPOINTS
        },
        "components": {
            "schemas": components,
            "headers": _headers(),
            "securitySchemes": {
                "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
                "bearer": {"type": "http", "scheme": "bearer"},
            },
        },
    }


def _operations() -> dict[str, Json]:
    """Descriptions of the operations in serve/http/routes.py."""
    return {
        "predict": _predict(),
        "predictBatch": _predict_batch(),
        "sendFeedback": _feedback(),
        "getModelInfo": _get("Model metadata", "ModelInfo"),
        "getHealth": _get("Whether the process is alive", "Status"),
        "getReadiness": _get(
            "Whether the model reproduces the predictions recorded at export",
            "Status",
            errors.NotReady,
        ),
        "getSamples": _get("Sample images", "Samples"),
        **_open_inference(),
    }


def _open_inference() -> dict[str, Json]:
    """The protocol of KServe and Triton; paths with a version have one more parameter."""
    server = {
        "getServerMetadata": _get("Open inference protocol: server metadata", "ServerMetadata"),
        "getServerLive": _get("Open inference protocol: server liveness", "ServerHealth"),
        "getServerReady": _get(
            "Open inference protocol: server readiness", "ServerHealth", errors.NotReady
        ),
    }
    model = {
        "getModel{}Metadata": _get("Open inference protocol: model metadata", "ModelMetadata"),
        "getModel{}Config": _get("Open inference protocol: Triton's model configuration", ""),
        "getModel{}Ready": _get(
            "Open inference protocol: model readiness", "ModelReady", errors.NotReady
        ),
        "inferModel{}": _infer(),
    }
    for operation in server.values():
        operation["responses"] |= _inference_errors(operation["responses"])
    for template, operation in model.items():
        responses = operation["responses"] | _problems(errors.NotFound)
        operation["responses"] = responses | _inference_errors(responses)
        for version, names in (("", ("name",)), ("Version", ("name", "version"))):
            parameters = [*map(_path_parameter, names), *operation["parameters"]]
            server[template.format(version)] = operation | {"parameters": parameters}
    return server


def _infer() -> Json:
    """Bodies with binary tensors, JSON followed by bytes, have no schema."""
    length = {
        "description": "Length in bytes of the JSON before the tensors.",
        "schema": {"type": "integer"},
    }
    answer = _success("InferResponse")
    answer["content"]["application/octet-stream"] = {"schema": {}}
    answer["headers"] = answer["headers"] | {"Inference-Header-Content-Length": length}
    return _post(
        "Open inference protocol: classify images",
        f"Up to {MAX_IMAGES} images, as pixels of the model's size in the input images, or as "
        "files of any size in the input image_files; the probabilities of all classes, or with "
        "classification the most probable ones. One unreadable image fails the request.",
        {"application/json": _ref("InferRequest"), "application/octet-stream": {}},
        {
            "200": answer,
            **_problems(
                *(one for one in _BODY_ERRORS if one is not errors.MalformedForm),
                errors.InvalidTensor,
                errors.NotFound,
                *_IMAGE_ERRORS,
            ),
        },
        [_traceparent(), {"name": "Inference-Header-Content-Length", "in": "header", **length}],
    )


def _inference_errors(responses: Json) -> Json:
    """The same errors in the protocol's form."""
    content = {"application/json": {"schema": _ref("InferenceError")}}
    return {
        status: response | {"content": content}
        for status, response in responses.items()
        if status != "200"
    }


def _path_parameter(name: str) -> Json:
    said = f"The {name} that /model/info tells."
    return {
        "name": name,
        "in": "path",
        "required": True,
        "description": said,
        "schema": {"type": "string"},
    }


def _predict() -> Json:
    # Without a type: a form part is bytes, whatever its content (OpenAPI 3.1, 4.8.14.2).
    file = {"contentMediaType": "application/octet-stream"}
    return _post(
        "Classify one image",
        "As base64 in JSON, as the bare file, or as the part image of a form. With a bare file "
        "the options are query parameters.",
        {
            "application/json": _ref("PredictRequest"),
            "image/*": {},
            "multipart/form-data": _form("image", file, *PREDICT_OPTIONS),
        },
        {"200": _success("PredictResponse"), **_problems(*_BODY_ERRORS, *_IMAGE_ERRORS)},
        [*_options(*PREDICT_OPTIONS), _traceparent()],
    )


def _predict_batch() -> Json:
    files = {
        "type": "array",
        "minItems": 1,
        "maxItems": MAX_IMAGES,
        "items": {"contentMediaType": "application/octet-stream"},
    }
    return _post(
        f"Classify up to {MAX_IMAGES} images",
        "Each image succeeds or fails on its own; the answer has one item for each, in order.",
        {
            "application/json": _ref("BatchRequest"),
            "multipart/form-data": _form("images", files, *BATCH_OPTIONS),
        },
        {"200": _success("BatchResponse"), **_problems(*_BODY_ERRORS)},
        [*_options(*BATCH_OPTIONS), _traceparent()],
    )


def _feedback() -> Json:
    responses = _problems(
        *(one for one in _BODY_ERRORS if one is not errors.MalformedForm),
        errors.CaptureOff,
        errors.UnknownAnswer,
        errors.Contradiction,
        errors.StoreUnavailable,
    )
    responses["404"]["headers"] |= _retry_after()
    known = _success("FeedbackResponse") | {
        "description": "The same caller had sent this label before."
    }
    feedback = _post(
        "Send the correct label of a prediction",
        "Only for captured predictions, a sample of all. Needs an API key, which identifies the "
        "caller: each may send one label per image, and repeat it.",
        {"application/json": _ref("Feedback")},
        {
            "200": known,
            "201": _success("FeedbackResponse") | {"description": "The label is stored."},
            **responses,
        },
        [_traceparent()],
    )
    return feedback | {"security": _KEYS}


def _post(
    summary: str, description: str, bodies: Json, responses: Json, parameters: list[Json]
) -> Json:
    """An operation with a body, its schemas by media type; it needs a key if there are any."""
    return {
        "summary": summary,
        "description": description,
        "security": [{}, *_KEYS],
        "parameters": parameters,
        "requestBody": {
            "required": True,
            "content": {kind: {"schema": schema} for kind, schema in bodies.items()},
        },
        "responses": responses,
    }


def _get(summary: str, answer: str, *problems: type[ServiceError]) -> Json:
    return {
        "summary": summary,
        "parameters": [_traceparent()],
        "responses": {"200": _success(answer), **_problems(*problems)},
    }


def _success(schema: str) -> Json:
    return {
        "description": schema or "JSON",
        "headers": _common_headers(),
        "content": {"application/json": {"schema": _ref(schema) if schema else {}}},
    }


def _problems(*kinds: type[ServiceError]) -> Json:
    """One response per status, listing its problem types."""
    by_status: dict[int, list[type[ServiceError]]] = {}
    every: tuple[type[ServiceError], ...] = (*kinds, errors.InternalError)
    for kind in every:
        by_status.setdefault(kind.status, []).append(kind)
    return {
        str(status): {
            "description": " ".join(f"{PROBLEM}{one.kind}: {one.title}." for one in found),
            "headers": _common_headers() | (_retry_after() if status == 503 else {}),
            "content": {"application/problem+json": {"schema": _ref("Problem")}},
        }
        for status, found in sorted(by_status.items())
    }


def _form(name: str, schema: Json, *options: str) -> Json:
    return {
        "type": "object",
        "required": [name],
        "properties": {
            name: schema,
            **{option["name"]: option["schema"] for option in _options(*options)},
        },
    }


def _options(*names: str) -> list[Json]:
    """Request fields as query parameters, for bodies other than JSON."""
    fields = msgspec.json.schema(schemas.PredictRequest)["$defs"]["PredictRequest"]["properties"]
    return [
        {
            "name": name,
            "in": "query",
            "description": "For bodies other than JSON. " + fields[name]["description"],
            "schema": {key: value for key, value in fields[name].items() if key != "description"},
        }
        for name in names
    ]


def _traceparent() -> Json:
    return {
        "name": "traceparent",
        "in": "header",
        "description": "W3C Trace Context; its trace id becomes the request id.",
        "schema": {"type": "string"},
    }


def _headers() -> Json:
    digest = msgspec.json.schema(schemas.Digest)
    identity = msgspec.json.schema(schemas.RequestId)
    return {
        "X-Request-ID": {"description": "Also the trace id.", "schema": identity},
        "X-Model-Version": {
            "description": "Digest of the model's graph and weights.",
            "schema": digest,
        },
    }


def _common_headers() -> Json:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in _headers()}


def _retry_after() -> Json:
    return {"Retry-After": {"description": "Seconds.", "schema": {"type": "integer", "minimum": 1}}}


def _ref(name: str) -> Json:
    return {"$ref": _REF.format(name=name)}


def text() -> str:
    """The document as stored in the file."""
    return json.dumps(document(), indent=2, ensure_ascii=False) + "\n"


def main(arguments: Sequence[str]) -> None:
    """Writes the file in the workspace."""
    import argparse  # the service does without it

    argparse.ArgumentParser(
        prog="bazel run //serve:openapi --",
        description=f"Writes {_FILE}, the OpenAPI document of the service, anew.",
    ).parse_args(arguments)
    path = Path(os.environ.get("BUILD_WORKSPACE_DIRECTORY", ""), _FILE)
    path.write_text(text(), encoding="utf-8")
    sys.stdout.write(f"{path}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
