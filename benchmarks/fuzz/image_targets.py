"""Images under guided fuzzing: documented errors or pixels, compared with Pillow's."""

import io
import zlib
from collections.abc import Iterator
from contextlib import suppress
from random import Random
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.fuzz import pngs
from benchmarks.fuzz.targets import Mutate, Target, hold
from common import images
from common.images import Codec, ImageError, image_size, image_type

_SIZE = (pngs.SIDE, pngs.SIDE)
_MOST_PIXELS = 2**18
_CODEC = Codec(_SIZE, _MOST_PIXELS)


def _decode(data: bytes) -> None:
    kind = image_type(data)
    try:
        pixels = _CODEC.decode(data)
    except ImageError as exc:
        hold(str(exc).isprintable(), f"the message is {str(exc)!r}")
        return
    hold(pixels.shape == (*_SIZE, 3) and pixels.dtype == np.uint8, f"{pixels.shape}")
    hold(np.array_equal(_CODEC.decode(data), pixels), "decoded twice, other pixels")
    assert kind is not None
    claimed = image_size(data, kind)
    try:
        with Image.open(io.BytesIO(data), formats=[kind]) as image:
            size = image.size
    except Exception:  # of a chunk that the codec ignores
        return
    hold(size[0] * size[1] <= _MOST_PIXELS, f"{size} were decoded")
    # Pillow extends a GIF's canvas for a frame beyond it.
    hold(kind == "GIF" or claimed in (None, size), f"{claimed} was checked, {size} decoded")


def _decode_small(data: bytes) -> None:
    short = images.decode(data, _SIZE)
    if short is not None:
        # Images with trailing data do not take the fast path.
        by_pillow = _CODEC.decode(data + b"\0")
        hold(np.array_equal(by_pillow, short), "Pillow decodes other pixels")


_MODES = {
    "PNG": ("RGB", "RGBA", "L", "LA", "P", "1", "I;16"),
    "JPEG": ("RGB", "L", "CMYK"),
    "WEBP": ("RGB", "RGBA"),
    "GIF": ("RGB", "P", "L"),
    "BMP": ("RGB", "P", "L", "1"),
}


# Literal indices, the end of a row, a move, a run and the end of the image.
_RUN_LENGTHS = b"\0\3abc\0" + b"\0\0" + b"\0\2\1\1" + b"\2\x77" + b"\0\1"


def _image_files() -> Iterator[bytes]:
    chance = np.random.default_rng(0)
    for kind, modes in _MODES.items():
        for mode, (width, height) in (
            (mode, size) for mode in modes for size in ((32, 32), (3, 5))
        ):
            image = Image.fromarray(chance.integers(0, 256, (height, width, 3)).astype(np.uint8))
            image = image.convert("L") if mode == "I;16" else image
            yield _saved(image.convert(mode), kind)
    films = [Image.new("RGB", (20, 10), color) for color in ("red", "green")]
    turned = Image.Exif()
    turned[0x0112] = 6
    more: dict[str, Any] = {"save_all": True, "append_images": films[1:]}
    for kind, options in (
        *(
            ("GIF", more),
            ("WEBP", more),
            ("PNG", more),
            ("MPO", more),
            ("WEBP", {"lossless": True}),
        ),
        *((kind, {"exif": turned}) for kind in ("JPEG", "PNG", "WEBP")),
        *(("JPEG", {"progressive": True}), ("PNG", {"interlace": True})),
        *((kind, {"icc_profile": b"a profile"}) for kind in ("JPEG", "PNG", "WEBP")),
    ):
        yield _saved(films[0], kind, **options)
    noise = Image.fromarray(chance.integers(0, 256, (4, 5, 3)).astype(np.uint8))
    for bits, compression in ((8, 1), (4, 2)):
        file = bytearray(_saved(noise.convert("P"), "BMP"))
        file[28], file[30] = bits, compression
        yield bytes(file[: file[10] + 256 * file[11]]) + _RUN_LENGTHS
    for one in pngs.family():
        if one.filters == pngs.FILTERS[-1] and (one.note or one.is_transparent):
            yield one.file


def _saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def _small_pngs() -> Iterator[bytes]:
    for one in pngs.family():
        if (one.color, one.depth, one.is_interlaced) == (pngs.RGB, 8, False):
            yield one.file


def _mutate_image(data: bytes, longest: int, chance: Random, mutate: Mutate) -> bytes:
    """Also mutates the decompressed content of PNG chunks; most of the time the checksums are
    recomputed.
    """
    if not data.startswith(pngs.SIGNATURE) or chance.random() < 0.2:
        return mutate(data, longest)
    chunks = [*_chunks(data)]
    if chunks and chance.random() < 0.7:
        place = chance.randrange(len(chunks))
        name, body = chunks[place]
        chunks[place] = name, _mutated_body(name, body, longest, chance, mutate)
    else:
        chunks = [*_chunks(mutate(data, longest))]
    return (pngs.SIGNATURE + b"".join(pngs.chunk(*one) for one in chunks))[:longest]


def _mutated_body(name: bytes, body: bytes, longest: int, chance: Random, mutate: Mutate) -> bytes:
    if name == b"IDAT" and chance.random() < 0.5:
        with suppress(zlib.error):
            return zlib.compress(mutate(zlib.decompressobj().decompress(body, 2**16), 2**16))
    return mutate(body or b"\0", longest)


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    position = len(pngs.SIGNATURE)
    while position + 8 <= len(data):
        length = int.from_bytes(data[position : position + 4])
        yield data[position + 4 : position + 8], data[position + 8 : position + 8 + length]
        position += 12 + length


CODEC = Target("codec", _decode, _image_files, 2**14, mutate=_mutate_image)
SMALL_PNG = Target("small_png", _decode_small, _small_pngs, 4096, mutate=_mutate_image)
