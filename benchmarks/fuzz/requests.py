"""The fuzzer's requests: Schemathesis's own, and image files sent in all ways that the API
accepts.
"""

import base64
import io
import zlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import schemathesis
from hypothesis import strategies as st
from PIL import Image
from schemathesis import APIOperation, Case, GenerationMode

from common.images import image_type

_SIZES = ((32, 32), (1, 1), (7, 50), (90, 40))
_MODES = {
    "PNG": ("RGB", "RGBA", "L", "LA", "P", "1", "I;16"),
    "JPEG": ("RGB", "L", "CMYK"),
    "WEBP": ("RGB", "RGBA"),
    "GIF": ("RGB", "P", "L"),
    "BMP": ("RGB", "P", "L", "1"),
}
_BEGINNINGS = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"GIF89a", b"BM", b"RIFF____WEBPVP8X")
_NUMBERS = (b"\x00\x00\x00\x00", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x00\x01\x86\xa0")


class File(NamedTuple):
    """An image file, possibly damaged."""

    data: bytes
    is_whole: bool  # the service must predict it


def _whole_files() -> list[bytes]:
    chance, files = np.random.default_rng(0), list[bytes]()
    for kind, modes in _MODES.items():
        for mode in modes:
            for width, height in _SIZES:
                pixels = chance.integers(0, 256, (height, width, 3)).astype(np.uint8)
                image = Image.fromarray(pixels)
                image = (
                    image.convert("L").convert("I;16") if mode == "I;16" else image.convert(mode)
                )
                files.append(_saved(image, kind))
    film = [Image.new("RGB", (20, 10), color) for color in ("red", "green", "blue")]
    files += [
        _saved(film[0], "GIF", save_all=True, append_images=film[1:]),
        _saved(film[0], "WEBP", save_all=True, append_images=film[1:]),
        _saved(film[0], "JPEG", progressive=True),
        _saved(film[0], "PNG", interlace=True),
    ]
    return files


def _saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


WHOLE = st.sampled_from(_whole_files())


@st.composite
def damaged_files(draw: st.DrawFn) -> bytes:
    """An intact file with a few faults: bytes changed, moved, missing, or added."""
    data = draw(WHOLE)
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, min(len(data), 120)) | st.integers(0, len(data)))
        match draw(
            st.sampled_from(("byte", "number", "cut", "insert", "append", "begin", "twice"))
        ):
            case "byte":
                data = data[:place] + draw(st.binary(min_size=1, max_size=1)) + data[place + 1 :]
            case "number":
                data = data[:place] + draw(st.sampled_from(_NUMBERS)) + data[place + 4 :]
            case "cut":
                data = data[:place]
            case "insert":
                data = data[:place] + draw(st.binary(min_size=1, max_size=40)) + data[place:]
            case "append":
                data += draw(st.binary(min_size=1, max_size=40))
            case "begin":
                data = draw(st.sampled_from(_BEGINNINGS)) + data[place:]
            case _:
                data += data[place:]
    return data


@st.composite
def lying_pngs(draw: st.DrawFn) -> bytes:
    """PNGs with false headers and correct checksums."""
    side = st.sampled_from((0, 1, 32, 5000, 5001, 100_000, 2**31 - 1, 2**32 - 1))
    form = bytes(draw(st.sampled_from((*range(8), 16, 255))) for _ in range(5))
    header = draw(side).to_bytes(4) + draw(side).to_bytes(4) + form
    names = st.sampled_from(
        (b"tRNS", b"PLTE", b"iCCP", b"zTXt", b"iTXt", b"eXIf", b"acTL", b"IDAT")
    )
    content = st.binary(max_size=60) | st.binary(max_size=60).map(zlib.compress)
    chunks = draw(st.lists(st.tuples(names, content), max_size=4))
    pixels = zlib.compress(draw(st.binary(max_size=4000)))
    parts = [(b"IHDR", header), *chunks, (b"IDAT", pixels), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(name, content) for name, content in parts)


def _chunk(name: bytes, content: bytes) -> bytes:
    checked = name + content
    return len(content).to_bytes(4) + checked + zlib.crc32(checked).to_bytes(4)


def files() -> st.SearchStrategy[File]:
    """About a third of them intact."""
    begun = st.tuples(st.sampled_from(_BEGINNINGS), st.binary(max_size=200)).map(b"".join)
    broken = damaged_files() | damaged_files() | damaged_files() | lying_pngs() | begun
    return (
        WHOLE.map(lambda data: File(data, is_whole=True))
        | broken.map(lambda data: File(data, is_whole=False))
        | (broken | st.binary(max_size=64)).map(lambda data: File(data, is_whole=False))
    )


Operation = APIOperation[Any, Any, Any, Any]
_KINDS = ("png", "jpeg", "webp", "gif", "bmp")
_TOP_K = {"1": True, "3": True, "1000": True, "0": False, "-1": False, "1001": False, "x": False}
_PROBABILITIES = {"true": True, "false": True, "yes": False, "": False}


class Request(NamedTuple):
    """A case, and what the sender knows about its response."""

    case: Case[Any]
    statuses: frozenset[int] | None = None  # allowed statuses


class Family(NamedTuple):
    """Requests of one kind, and their share."""

    name: str
    share: float
    requests: st.SearchStrategy[Request]


@schemathesis.serializer("image/*", *(f"image/{kind}" for kind in _KINDS))
def _image(_: Any, value: Any) -> Any:
    return value if isinstance(value, bytes) else str(value).encode()


def families(schema: schemathesis.BaseSchema) -> Iterator[Family]:
    """The families of requests with their shares, which sum to one."""
    predict, batch = schema["/predict"]["POST"], schema["/predict/batch"]["POST"]
    for operation, share in ((predict, 0.1), (batch, 0.07)):
        for mode in GenerationMode:
            generated = operation.as_strategy(mode).map(Request)
            if mode == GenerationMode.POSITIVE:
                # The document allows any string, which is rarely an image.
                generated = st.tuples(generated, WHOLE).map(_with_image)
            yield Family(f"{operation.label}, {mode.value}", share, generated)
    for mode in GenerationMode:  # without keys all feedback is rejected
        generated = schema["/feedback"]["POST"].as_strategy(mode).map(Request)
        yield Family(f"POST /feedback, {mode.value}", 0.01, generated)
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
        0.18,
        st.lists(files(), min_size=1, max_size=8).map(lambda many: _batch(batch, many)),
    )


def _with_image(drawn: tuple[Request, bytes]) -> Request:
    """Puts an image wherever the document has one."""
    (case, _), file = drawn
    body: Any = case.body
    if str(case.media_type).startswith("image/"):  # whose schema allows anything
        case.body = file
    elif case.media_type == "multipart/form-data":
        body |= {name: file for name in ("image", "images") if name in body}
    else:
        text = base64.b64encode(file).decode()
        if "image" in body:
            body["image"] = text
        if "images" in body:
            body["images"] = [text for _ in body["images"]]
    return Request(case, frozenset({200}))


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
