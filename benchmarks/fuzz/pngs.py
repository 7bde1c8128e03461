"""PNGs of every kind in the specification, generated from it without Pillow, and their pixels.

https://www.w3.org/TR/png-3/
"""

import struct
import zlib
from collections.abc import Iterator, Sequence
from itertools import product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from common.images import Pixels

SIGNATURE = b"\x89PNG\r\n\x1a\n"
SIDE = 32
GREY, RGB, PALETTE, GREY_ALPHA, RGBA = 0, 2, 3, 4, 6
DEPTHS = {  # 11.2.1, table 12
    GREY: (1, 2, 4, 8, 16),
    RGB: (8, 16),
    PALETTE: (1, 2, 4, 8),
    GREY_ALPHA: (8, 16),
    RGBA: (8, 16),
}
_BANDS = {GREY: 1, RGB: 3, PALETTE: 1, GREY_ALPHA: 2, RGBA: 4}
FILTERS = ((0,), (1,), (2,), (3,), (4,), (0, 1, 2, 3, 4))  # of rows, in rotation
# Chunks that do not affect pixels, at the places of section 5.6.
_BEFORE_PLTE = {
    b"cHRM": struct.pack(">8I", 31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000),
    b"gAMA": struct.pack(">I", 45455),
    b"iCCP": b"profile\0\0" + zlib.compress(b"no profile that anybody reads"),
    b"sRGB": b"\0",
    b"cICP": b"\x01\x0d\0\x01",
}
_BEHIND_PLTE = {
    b"pHYs": struct.pack(">IIB", 2835, 2835, 1),
    b"sPLT": b"colours\0\x08" + bytes(6),
    b"tIME": struct.pack(">H5B", 2026, 11, 29, 21, 30, 0),
    b"tEXt": b"Comment\0plain",
    b"zTXt": b"Comment\0\0" + zlib.compress(b"packed"),
    b"iTXt": b"Comment\0\0\0en\0\0a \xe2\x82\xac",
    b"eXIf": b"II*\0\x08\0\0\0\0\0\0\0\0\0",  # says nothing
    b"prVt": b"of an application",
}
NOTES = ("", *(name.decode() for name in (*_BEFORE_PLTE, *_BEHIND_PLTE)), "sBIT", "bKGD", "hIST")


class Png(NamedTuple):
    """A file, its description, and its pixels."""

    name: str
    file: bytes
    shown: Pixels
    color: int
    depth: int
    is_interlaced: bool
    filters: tuple[int, ...]
    note: str  # the chunk beside its pixels
    is_transparent: bool  # has a tRNS chunk


def chunk(name: bytes, body: bytes) -> bytes:
    """A chunk with length and CRC."""
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def family() -> Iterator[Png]:
    """Every colour type and depth, plain and interlaced, with each filter and all in rotation; and
    for each colour type and depth one with each ancillary chunk.
    """
    for color, depth in ((color, depth) for color, depths in DEPTHS.items() for depth in depths):
        kinds = [(*shape, "", False) for shape in product((False, True), FILTERS)]
        kinds += [(False, FILTERS[-1], note, False) for note in NOTES[1:] if _may(color, note)]
        if color in (GREY, RGB, PALETTE):
            kinds += [(*shape, "", True) for shape in product((False, True), FILTERS[-1:])]
        for is_interlaced, filters, note, is_transparent in kinds:
            yield _png(color, depth, is_interlaced, filters, note, is_transparent)


def _may(color: int, note: str) -> bool:
    return color == PALETTE or note != "hIST"  # 11.3.4.2: only with a palette


def _png(
    color: int,
    depth: int,
    is_interlaced: bool,
    filters: tuple[int, ...],
    note: str,
    is_transparent: bool,
) -> Png:
    chance = np.random.default_rng([color, depth])
    top = 2**depth - 1
    samples = chance.integers(0, top + 1, (SIDE, SIDE, _BANDS[color]))
    palette = chance.integers(0, 256, (top + 1, 4)) if color == PALETTE else None
    clear = samples[0, 0] if is_transparent and palette is None else None
    chunks = []
    if palette is not None:
        chunks.append(chunk(b"PLTE", palette[:, :3].astype(np.uint8).tobytes()))
        if is_transparent:
            chunks.append(chunk(b"tRNS", palette[:, 3].astype(np.uint8).tobytes()))
        else:
            palette[:, 3] = 255
    if clear is not None:
        chunks.append(chunk(b"tRNS", struct.pack(f">{len(clear)}H", *clear)))
    if note.encode() in _BEFORE_PLTE:
        chunks.insert(0, chunk(note.encode(), _BEFORE_PLTE[note.encode()]))
    elif note:
        chunks.append(chunk(note.encode(), _note(note.encode(), color, depth)))
    header = struct.pack(">IIBBBBB", SIDE, SIDE, depth, color, 0, 0, is_interlaced)
    parts = _passes(samples) if is_interlaced else [samples]
    packed = zlib.compress(b"".join(_filtered(part, depth, filters) for part in parts))
    chunks += [chunk(b"IDAT", packed[:50]), chunk(b"IDAT", packed[50:]), chunk(b"IEND", b"")]
    words = [f"colour type {color}", f"{depth} bits", "interlaced" * is_interlaced]
    words += [f"filters {filters}", note, "tRNS" * is_transparent]
    return Png(
        ", ".join(word for word in words if word),
        SIGNATURE + b"".join([chunk(b"IHDR", header), *chunks]),
        _shown(samples, color, depth, palette, clear),
        *(color, depth, is_interlaced, filters, note, is_transparent),
    )


def _note(name: bytes, color: int, depth: int) -> bytes:
    match name:
        case b"sBIT":
            return bytes([min(depth, 8)]) * {PALETTE: 3}.get(color, _BANDS[color])
        case b"bKGD":
            colors = {GREY: 1, GREY_ALPHA: 1}.get(color, 3)
            return b"\0" if color == PALETTE else b"\0\1" * colors
        case b"hIST":
            return b"\0\1" * (1 << depth)
    return _BEHIND_PLTE[name]


def _shown(
    samples: NDArray[np.int64],
    color: int,
    depth: int,
    palette: NDArray[np.int64] | None,
    clear: NDArray[np.int64] | None,
) -> Pixels:
    if palette is not None:
        return _on_white(palette[samples[..., 0]])
    eight = samples >> 8 if depth == 16 else samples * 255 // (2**depth - 1)
    rgb = eight[..., : 1 if color in (GREY, GREY_ALPHA) else 3]
    rgb = rgb.repeat(3 // rgb.shape[2], axis=2)
    if color in (GREY_ALPHA, RGBA):
        return _on_white(np.dstack([rgb, eight[..., -1:]]))
    if clear is not None:
        # Pillow compares only 8 of a colour's 16 bits.
        kept = (samples >> 8, clear >> 8) if (color, depth) == (RGB, 16) else (samples, clear)
        rgb = np.where((kept[0] == kept[1]).all(axis=2, keepdims=True), 255, rgb)
    return rgb.astype(np.uint8)


def _on_white(rgba: NDArray[np.int64]) -> Pixels:
    bands = Image.fromarray(rgba.astype(np.uint8), "RGBA")
    white = Image.new("RGBA", bands.size, "white")
    return np.asarray(Image.alpha_composite(white, bands).convert("RGB"))


def _passes(samples: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Adam7: section 8.2."""
    steps = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2))
    return [samples[y::dy, x::dx] for y, x, dy, dx in (*steps, (1, 0, 2, 1))]


def _filtered(samples: NDArray[np.int64], depth: int, filters: Sequence[int]) -> bytes:
    """Rows of a pass, each after its filter byte: section 9.2."""
    height, width, bands = samples.shape
    flat = samples.reshape(height, width * bands, 1)
    bits = (flat >> np.arange(depth - 1, -1, -1) & 1).reshape(height, -1).astype(np.uint8)
    rows = np.packbits(bits, axis=1).astype(int)
    back = max(1, bands * depth // 8)
    above, written = np.zeros(rows.shape[1], int), []
    for number, row in enumerate(rows):
        kind = filters[number % len(filters)]
        left, corner = (np.concatenate([np.zeros(back, int), r])[: len(r)] for r in (row, above))
        nearness = np.abs([above - corner, left - corner, left + above - 2 * corner])
        paeth = np.choose(nearness.argmin(axis=0), [left, above, corner])
        guess = [np.zeros_like(row), left, above, (left + above) // 2, paeth][kind]
        written.append(bytes([kind]) + ((row - guess) % 256).astype(np.uint8).tobytes())
        above = row
    return b"".join(written)
