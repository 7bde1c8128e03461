"""What a browser sees: the demo page, the documentation, their files. Nothing from elsewhere."""

import base64
import hashlib
import io
from pathlib import Path

import msgspec
import numpy as np
from PIL import Image
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from serve.contract.artifact import ArtifactMetadata
from serve.schemas import Sample, Samples

_FOLDER = Path(__file__).with_name("site")
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
    names = sorted(path.name for path in _FOLDER.iterdir() if path.suffix in _TYPES)
    shown = {"demo.html": "/", "docs.html": "/docs", "openapi.json": "/openapi.json"}
    return [_file_route(shown.get(name, "/site/" + name), _FOLDER / name) for name in names] + [
        _samples_route(metadata)
    ]


def _file_route(path: str, file: Path) -> Route:
    body, headers = file.read_bytes(), {"cache-control": "no-cache"}
    tag = headers["etag"] = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
    if file.suffix == ".html":
        headers |= _PAGE_HEADERS

    async def answer(request: Request) -> Response:
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        return Response(body, headers=headers | {"content-type": _TYPES[file.suffix]})

    return Route(path, answer)


def _samples_route(metadata: ArtifactMetadata) -> Route:
    body = b""

    async def answer(_: Request) -> Response:
        nonlocal body
        body = body or msgspec.json.encode(samples(metadata))
        headers = {"cache-control": "no-cache"}
        return Response(body, media_type="application/json", headers=headers)

    return Route("/samples", answer)


def samples(metadata: ArtifactMetadata) -> Samples:
    """The images that the artifact carries, with the labels that the model gives them."""
    height, width = metadata.input_size
    images = np.frombuffer(metadata.parity.images, np.uint8).reshape(-1, height, width, 3)
    labels = (metadata.classes[int(np.argmax(row))] for row in metadata.parity.probabilities)
    return Samples(
        [Sample(label, _data_url(image)) for label, image in zip(labels, images, strict=True)]
    )


def _data_url(image: np.ndarray) -> str:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
