"""Which requests a fuzzer sends: Schemathesis's own, and images in every way of sending one."""

import base64
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import schemathesis
from hypothesis import strategies as st
from schemathesis import APIOperation, Case, GenerationMode

from serve.fuzz.files import File, files
from serve.image_file import image_type

Operation = APIOperation[Any, Any, Any, Any]

_KINDS = ("png", "jpeg", "webp", "gif", "bmp")
_TOP_K = {"1": True, "3": True, "1000": True, "0": False, "-1": False, "1001": False, "x": False}
_PROBABILITIES = {"true": True, "false": True, "yes": False, "": False}


class Request(NamedTuple):
    """A case, and what the sender knows of its answer."""

    case: Case[Any]
    statuses: frozenset[int] | None = None  # of these it must be one


class Family(NamedTuple):
    """Requests of one kind, and which share of all they are."""

    name: str
    share: float
    requests: st.SearchStrategy[Request]


@schemathesis.serializer("image/*", *(f"image/{kind}" for kind in _KINDS))
def _image(_: Any, value: Any) -> Any:
    return value if isinstance(value, bytes) else str(value).encode()


def families(schema: schemathesis.BaseSchema) -> Iterator[Family]:
    """All kinds; the shares add up to one."""
    predict, batch = schema["/predict"]["POST"], schema["/predict/batch"]["POST"]
    for operation, share in ((predict, 0.1), (batch, 0.07)):
        for mode in GenerationMode:
            generated = operation.as_strategy(mode).map(Request)
            yield Family(f"{operation.label}, {mode.value}", share, generated)
    for path in ("/model/info", "/health", "/ready", "/samples"):
        positive = schema[path]["GET"].as_strategy(GenerationMode.POSITIVE).map(Request)
        yield Family(f"GET {path}", 0.01, positive)
    for name, build in _WAYS.items():
        single = st.tuples(files(), st.sampled_from([*_TOP_K]), st.sampled_from([*_PROBABILITIES]))
        yield Family(
            f"POST /predict, image as {name}",
            0.14,
            single.map(lambda drawn, build=build: _single(predict, build, *drawn)),  # type: ignore[misc]
        )
    yield Family(
        "POST /predict/batch, images",
        0.2,
        st.lists(files(), min_size=1, max_size=8).map(lambda many: _batch(batch, many)),
    )


def _as_json(operation: Operation, file: File, top_k: str, probabilities: str) -> Case[Any]:
    body: dict[str, Any] = {"image": base64.b64encode(file.data).decode()}
    body["top_k"] = int(top_k) if top_k.lstrip("-").isdigit() else top_k
    body["probabilities"] = {"true": True, "false": False}.get(probabilities, probabilities)
    return operation.Case(body=body, media_type="application/json")


def _as_file(operation: Operation, file: File, top_k: str, probabilities: str) -> Case[Any]:
    query = {"top_k": top_k, "probabilities": probabilities}
    kind = (image_type(file.data) or "png").lower()
    return operation.Case(body=file.data, query=query, media_type=f"image/{kind}")


def _as_form(operation: Operation, file: File, top_k: str, probabilities: str) -> Case[Any]:
    body: Any = {"image": file.data, "top_k": top_k, "probabilities": probabilities}
    return operation.Case(body=body, media_type="multipart/form-data")


_Build = Callable[[Operation, File, str, str], Case[Any]]
_WAYS: dict[str, _Build] = {"JSON": _as_json, "file": _as_file, "form": _as_form}


def _single(
    operation: Operation, build: _Build, file: File, top_k: str, probabilities: str
) -> Request:
    case = build(operation, file, top_k, probabilities)
    if not (_TOP_K[top_k] and _PROBABILITIES[probabilities]):
        return Request(case, frozenset({415, 422} if not file.is_whole else {422}))
    return Request(case, frozenset({200} if file.is_whole else {200, 413, 415, 422}))


def _batch(operation: Operation, many: list[File]) -> Request:
    images: list[Any] = [base64.b64encode(file.data).decode() for file in many]
    case = operation.Case(body={"images": images}, media_type="application/json")
    return Request(case, frozenset({200}))
