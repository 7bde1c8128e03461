"""Soak cases with expected responses, computed in advance without the service.

Expected predictions come from bare onnxruntime on pixels that did not pass through the service's
codec, except for photos of other sizes, which it downscales.
"""

import base64
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from common.images import MAX_PIXELS, Codec
from common.model.artifact import INPUT, PROBABILITIES, ArtifactMetadata

_KINDS: dict[str, dict[str, Any]] = {
    "PNG": {},
    "JPEG": {"quality": 95},
    "WEBP": {"lossless": True},
    "GIF": {},
    "BMP": {},
}
_IMAGES = 4  # of each type
_PHOTOS = {  # (width, height) of images not of the model's size: files up to a few megabytes
    "PNG": ((1, 1), (200, 150), (700, 500)),
    "JPEG": ((33, 31), (640, 480), (1600, 1200), (4000, 3000)),
    "WEBP": ((90, 60), (800, 600)),
    "GIF": ((300, 200),),
    "BMP": ((64, 64), (500, 400)),
}
_BATCHES = (1, 2, 7, 33, 100)  # images of one
_SMALL = 2**15  # bytes of an image in a batch
_CLEAR = 0.02  # between the two most probable classes: the order must not depend on rounding

_BOUNDARY = "soak-6f1d"
_FORM = f"multipart/form-data; boundary={_BOUNDARY}"
_JSON = "application/json"

# Of an image: its probabilities, or the status of its error.
Expected = list[float] | int


@dataclass(frozen=True)
class Case:
    """A request, and its expected response."""

    name: str
    request: bytes  # head and body
    status: int
    problem: str = ""  # the kind of error
    images: Sequence[Expected] = ()
    is_batch: bool = False
    ends: bool = False  # the connection is closed after the response


def all_cases(model: Path, metadata: ArtifactMetadata, key: str) -> list[Case]:
    """Every kind of request except `stalled`.

    Args:
        key: the API key that the service knows.
    """
    return [*good_cases(model, metadata, key), *bad_cases(key)]


def good_cases(model: Path, metadata: ArtifactMetadata, key: str) -> Iterator[Case]:
    """Each image type in each way of sending it; batches, also with broken items."""
    files = _answered_files(model, metadata)
    for name, data, row in files:
        for way, path, body, content_type in _ways(data, name):
            yield Case(f"{name} as {way}", _request(path, body, content_type, key), 200, "", [row])
    yield from _batches([(data, row) for _, data, row in files], key)


def _answered_files(
    model: Path, metadata: ArtifactMetadata
) -> list[tuple[str, bytes, list[float]]]:
    """(type, file, probabilities) of those with a clear class."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    codec = Codec(metadata.input_size, MAX_PIXELS, metadata.resize)
    answered = []
    for kind, data in _image_files(metadata.input_size):
        with Image.open(io.BytesIO(data)) as image:
            pixels = np.asarray(image.convert("RGB"))
        if pixels.shape[:2] != metadata.input_size:
            pixels = codec.decode(data)
        row = session.run([PROBABILITIES], {INPUT: pixels[np.newaxis]})[0][0]
        second, first = np.sort(row)[-2:]
        if first - second >= _CLEAR:
            answered.append((kind, data, [float(value) for value in row]))
    return answered


def _image_files(size: tuple[int, int]) -> Iterator[tuple[str, bytes]]:
    for kind, options in _KINDS.items():
        for seed in range(_IMAGES):
            yield kind, _file(_pixels(seed, size), kind, **options)
        for photo in _PHOTOS[kind]:
            yield kind, _file(_pixels(sum(photo), photo[::-1]), kind, **options)
    text = PngInfo()
    text.add_text("comment", "x" * 20_000)  # too large to be decoded on the event loop
    yield "PNG", _file(_pixels(0, size), "PNG", pnginfo=text)
    yield "PNG", _file(_pixels(0, size), "PNG") + b"what some cameras write behind an image"


def _pixels(seed: int, size: tuple[int, int]) -> NDArray[np.uint8]:
    """(H, W, 3): soft blots, reproducible."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3)).astype(np.uint8)
    smooth = Image.fromarray(coarse).resize((size[1], size[0]), Image.Resampling.BICUBIC)
    return np.asarray(smooth)


def _file(pixels: NDArray[np.uint8], kind: str, **options: Any) -> bytes:
    file, image = io.BytesIO(), Image.fromarray(pixels)
    (image.quantize(64) if kind == "GIF" else image).save(file, kind, **options)
    return file.getvalue()


def _ways(data: bytes, kind: str) -> Iterator[tuple[str, str, bytes, str]]:
    """(name, path, body, content type), each requesting all probabilities."""
    text, media_type = base64.b64encode(data).decode(), f"image/{kind.lower()}"
    query = "/predict?probabilities=true"
    form = _form([("image", data), ("probabilities", b"true")])
    yield "JSON", "/predict", _json(image=text, probabilities=True), _JSON
    url = f"data:{media_type};base64,{text}"
    yield "data URL", "/predict", _json(image=url, probabilities=True), _JSON
    yield "file", query, data, media_type
    yield "form", "/predict", form, _FORM


def _batches(files: Sequence[tuple[bytes, list[float]]], key: str) -> Iterator[Case]:
    def case(name: str, body: bytes, content_type: str, images: Sequence[Expected]) -> Case:
        request = _request("/predict/batch", body, content_type, key)
        return Case(name, request, 200, "", images, is_batch=True)

    files = [(data, row) for data, row in files if len(data) < _SMALL]
    items = [base64.b64encode(data).decode() for data, _ in files]
    rows: list[Expected] = [row for _, row in files]
    broken = ["?", base64.b64encode(b"no image").decode(), items[0][:40], *items[:3]]
    form = _form([*(("images", data) for data, _ in files[:5]), ("probabilities", b"true")])
    for count in _BATCHES:
        taken = [place % len(items) for place in range(count)]
        body = _json(images=[items[place] for place in taken], probabilities=True)
        yield case(f"batch of {count}", body, _JSON, [rows[place] for place in taken])
    yield case(
        "batch with broken items",
        _json(images=broken, probabilities=True),
        _JSON,
        [422, 415, 422, *rows[:3]],
    )
    yield case("batch as form", form, _FORM, rows[:5])


def bad_cases(key: str) -> Iterator[Case]:
    """Every kind of client error except `stalled`."""

    def case(
        status: int, problem: str, body: bytes, content_type: str = _JSON, path: str = "/predict"
    ) -> Case:
        request = _request(path, body, content_type, key)
        return Case(f"{status} {problem}", request, status, problem)

    png = _file(_pixels(0, (32, 32)), "PNG")
    too_wide = png[:16] + (100_000).to_bytes(4) * 2 + png[24:]
    yield case(400, "malformed-json", b'{"image": ')
    yield case(400, "malformed-form", _form([("image", png)])[:-20], _FORM)
    yield case(400, "malformed-form", b"x", "multipart/form-data")
    wrong_key = _request("/predict", b"{}", _JSON, "wrong")
    yield Case("401 unauthorized", wrong_key, 401, "unauthorized")
    yield case(404, "not-found", b"{}", path="/nowhere")
    yield case(405, "method-not-allowed", b"{}", path="/health")
    yield case(413, "image-too-large", too_wide, "image/png")
    head = _head("/predict", _JSON, key, 7_000_000)
    yield Case("413 body-too-large", head, 413, "body-too-large", ends=True)
    yield case(415, "unsupported-image", b"%PDF-1.7", "image/png")
    yield case(415, "unsupported-media-type", b"image", "text/plain")
    for body in (b"{}", b"[]", b'{"image": "iVBO!"}', b'{"image": "", "top_k": 0}'):
        yield case(422, "invalid-field", body)
    for count in (0, 101):
        yield case(422, "invalid-field", _json(images=["x"] * count), path="/predict/batch")
    yield case(422, "unreadable-image", png[:60], "image/png")


def stalled(key: str) -> Case:
    """A body that never arrives: the response takes KILN_BODY_TIMEOUT_MS."""
    request = _head("/predict", _JSON, key, 100) + b"{"
    return Case("408 body-timeout", request, 408, "body-timeout", ends=True)


def _json(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


def _form(parts: Sequence[tuple[str, bytes]]) -> bytes:
    disposition = '--{}\r\nContent-Disposition: form-data; name="{}"\r\n\r\n'
    whole = [disposition.format(_BOUNDARY, name).encode() + data + b"\r\n" for name, data in parts]
    return b"".join(whole) + f"--{_BOUNDARY}--\r\n".encode()


def _request(path: str, body: bytes, content_type: str, key: str) -> bytes:
    return _head(path, content_type, key, len(body)) + body


def _head(path: str, content_type: str, key: str, length: int) -> bytes:
    return (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nX-API-Key: {key}\r\n"
        f"Content-Type: {content_type}\r\nContent-Length: {length}\r\n\r\n"
    ).encode()
