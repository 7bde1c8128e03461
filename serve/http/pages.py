"""Static pages: the demo and the documentation."""

import base64
import hashlib
import io
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from common.model.artifact import ArtifactMetadata
from serve.http.schemas import Sample, Samples

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


def page_routes(metadata: ArtifactMetadata) -> list[Route]:
    """/, /docs, /openapi.json, /samples and the files of the pages.

    Pages name everything by relative URLs, so they work below any prefix.
    """
    offered = msgspec.json.encode(samples(metadata))
    return [
        _route("/", "demo.html"),
        _route("/docs", "docs.html"),
        _route("/openapi.json", "openapi.json"),
        *(_route("/site/" + name, name) for name in _SHARED),
        _route("/samples", "samples.json", offered),
    ]


def samples(metadata: ArtifactMetadata) -> Samples:
    """Images to try: one of each class of CIFAR-10, or those that the artifact carries.

    The latter have the labels that the model gave them when it was exported.
    """
    bundled = msgspec.json.decode((_FOLDER / "samples.json").read_bytes(), type=Samples)
    if {sample.label for sample in bundled.samples} <= set(metadata.classes):
        return bundled
    height, width = metadata.input_size
    images = np.frombuffer(metadata.parity.images, np.uint8).reshape(-1, height, width, 3)
    labels = [metadata.classes[int(np.argmax(row))] for row in metadata.parity.probabilities]
    pairs = zip(labels, images, strict=True)
    return Samples([Sample(label, _data_url(image)) for label, image in pairs])


def _route(path: str, name: str, content: bytes | None = None) -> Route:
    """What stays while the process lives; browsers ask whether theirs is still the same."""
    body = (_FOLDER / name).read_bytes() if content is None else content
    kind = Path(name).suffix
    tag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
    headers = {"cache-control": "no-cache", "etag": tag, "content-type": _TYPES[kind]}
    if kind == ".html":
        headers |= _PAGE_HEADERS

    async def answer(request: Request) -> Response:
        if tag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers={"cache-control": "no-cache", "etag": tag})
        return Response(body, headers=headers)

    return Route(path, answer)


def _data_url(image: NDArray[np.uint8]) -> str:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
