"""Hypothesis strategies of image files: whole ones, damaged ones, and some that lie."""

import io
import zlib
from typing import Any, NamedTuple

import numpy as np
from hypothesis import strategies as st
from PIL import Image

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
    """An image file, or what looks like one."""

    data: bytes
    is_whole: bool  # the service must answer it


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
    """A whole file with a few things wrong: bytes changed, moved, missing, or too many."""
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
    """PNGs whose checksums are right, so that what they say of size and form is believed."""
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
    """About a third of them whole."""
    begun = st.tuples(st.sampled_from(_BEGINNINGS), st.binary(max_size=200)).map(b"".join)
    broken = damaged_files() | damaged_files() | damaged_files() | lying_pngs() | begun
    return (
        WHOLE.map(lambda data: File(data, is_whole=True))
        | broken.map(lambda data: File(data, is_whole=False))
        | (broken | st.binary(max_size=64)).map(lambda data: File(data, is_whole=False))
    )
