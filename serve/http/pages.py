"""Static pages: the demo and the documentation."""

import base64
import hashlib
import io
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from common.model.artifact import ArtifactMetadata
from serve.http.schemas import Sample, Samples

Endpoint = Callable[[Request], Coroutine[Any, Any, Response]]
_FOLDER = Path(__file__).parents[1] / "site"
_SHARED = ("style.css", "icon.svg", "demo.js", "docs.js")
_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".svg": "image/svg+xml",
}
_PAGE_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "img-src 'self' data: blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "referrer-policy": "no-referrer",
}


def page_routes() -> list[Route]:
    """/, /docs, /openapi.json and the files of the pages.

    Pages use relative URLs only, so they work below any prefix.
    """
    files = {name: _file(name) for name in _SHARED}

    async def shared(request: Request) -> Response:
        if (answer := files.get(request.path_params["file"])) is None:
            raise HTTPException(404)
        return await answer(request)

    return [
        Route("/", _file("demo.html")),
        Route("/docs", _file("docs.html")),
        Route("/openapi.json", _file("openapi.json")),
        Route("/site/{file}", shared),
    ]


def _file(name: str) -> Endpoint:
    body, suffix = (_FOLDER / name).read_bytes(), Path(name).suffix
    return unchanging(body, _TYPES[suffix], _PAGE_HEADERS if suffix == ".html" else {})


def unchanging(
    body: bytes, kind: str, headers: Mapping[str, str] = MappingProxyType({})
) -> Endpoint:
    """An endpoint whose content is constant during the process's life, with an ETag."""
    tag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
    cached = {"cache-control": "no-cache", "etag": tag}
    whole = {**cached, "content-type": kind, **headers}

    async def answer(request: Request) -> Response:
        if tag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=cached)
        return Response(body, headers=whole)

    return answer


def samples(metadata: ArtifactMetadata) -> Samples:
    """Sample images: one of each class of CIFAR-10, or those in the artifact.

    The latter are labelled with the model's predictions at export.
    """
    bundled = msgspec.json.decode((_FOLDER / "samples.json").read_bytes(), type=Samples)
    if {sample.label for sample in bundled.samples} <= set(metadata.classes):
        return bundled
    height, width = metadata.input_size
    images = np.frombuffer(metadata.parity.images, np.uint8).reshape(-1, height, width, 3)
    labels = [metadata.classes[int(np.argmax(row))] for row in metadata.parity.probabilities]
    pairs = zip(labels, images, strict=True)
    return Samples([Sample(label, _data_url(image)) for label, image in pairs])


def _data_url(image: NDArray[np.uint8]) -> str:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
