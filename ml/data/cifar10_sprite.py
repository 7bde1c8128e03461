"""Decode the PNG sprites of the npm package into CIFAR-10 records, with the standard library alone.

A sprite holds one image per row: 1024 pixels, the 32x32 image read row by row. Published records
are planar instead (1024 red, 1024 green, 1024 blue bytes), which suits the decoder: it undoes PNG's
filters channel by channel anyway.
"""

from __future__ import annotations

import struct
import sys
import zlib
from array import array
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate

PIXELS = 32 * 32
CHANNELS = 3
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_RGB8 = (8, 2, 0, 0, 0)  # bit depth, colour type, compression, filter method, interlace
_LOWEST_BYTE = 0 if sys.byteorder == "little" else 7


class SpriteError(ValueError):
    """The bytes are not a sprite that this decoder reads; the message says what is wrong."""


def decode_sprite(png: bytes) -> list[bytes]:
    """Planar RGB images of 3072 bytes each, one per row of an RGB8 PNG that is 1024 pixels wide.

    Raises:
        SpriteError: no PNG, another kind of PNG, or damaged.
    """
    height, compressed = _read_chunks(png)
    stride = 1 + PIXELS * CHANNELS
    rows = _inflate(compressed, height * stride)
    above: list[bytes] = [bytes(PIXELS)] * CHANNELS
    images = []
    for start in range(0, len(rows), stride):
        row = rows[start + 1 : start + stride]
        planes = [row[channel::CHANNELS] for channel in range(CHANNELS)]
        above = [_unfilter(rows[start], *pair) for pair in zip(planes, above, strict=True)]
        images.append(b"".join(above))
    return images


def encode_records(labels: Sequence[int], images: Sequence[bytes]) -> bytes:
    """Records of the published binary layout: one label byte, then 3072 bytes of planar RGB.

    Raises:
        SpriteError: labels and images differ in number, or a label is not in 0..9.
    """
    if len(labels) != len(images):
        raise SpriteError(f"{len(images)} images but {len(labels)} labels")
    strange = next((label for label in labels if label not in range(10)), None)
    if strange is not None:
        raise SpriteError(f"label {strange!r} is not a class index in 0..9")
    return b"".join(bytes((label,)) + image for label, image in zip(labels, images, strict=True))


def _read_chunks(png: bytes) -> tuple[int, list[bytes]]:
    """Height and the compressed parts."""
    header: bytes | None = None
    parts: list[bytes] = []
    for kind, body in _chunks(png):
        if kind == b"IHDR":
            header = body
        elif kind == b"IDAT":
            parts.append(body)
        elif kind == b"IEND":
            break
    else:
        raise SpriteError("the PNG ends early: no IEND chunk")
    if header is None or len(header) != 13:
        raise SpriteError("the PNG has no header")
    width, height, *kind_of_png = struct.unpack(">IIBBBBB", header)
    if width != PIXELS or tuple(kind_of_png) != _RGB8:
        raise SpriteError(
            f"expected a PNG of {PIXELS} RGB8 pixels per row, found {width} pixels, {kind_of_png}"
        )
    return height, parts


def _chunks(png: bytes) -> Iterator[tuple[bytes, bytes]]:
    if png[: len(_SIGNATURE)] != _SIGNATURE:
        raise SpriteError("not a PNG file")
    view, offset = memoryview(png), len(_SIGNATURE)
    while offset + 12 <= len(png):
        (size,) = struct.unpack_from(">I", png, offset)
        end = offset + 8 + size
        if end + 4 > len(png):
            raise SpriteError("the PNG ends early")
        (expected,) = struct.unpack_from(">I", png, end)
        if zlib.crc32(view[offset + 4 : end]) != expected:
            raise SpriteError(f"the PNG is damaged: wrong checksum at byte {offset}")
        yield bytes(view[offset + 4 : offset + 8]), bytes(view[offset + 8 : end])
        offset = end + 4


def _inflate(parts: list[bytes], size: int) -> bytes:
    """Exactly ``size`` bytes; a stream with more is refused before it fills the memory."""
    inflater = zlib.decompressobj()
    try:
        rows = inflater.decompress(b"".join(parts), size + 1)
    except zlib.error as exc:
        raise SpriteError(f"the PNG's pixels do not decompress: {exc}") from exc
    if len(rows) != size:
        raise SpriteError(
            f"expected {size} bytes of pixels, found {'more' if len(rows) > size else len(rows)}"
        )
    return rows


def _unfilter(kind: int, plane: bytes, above: bytes) -> bytes:
    """Reverses a PNG filter on one channel of one row, where neighbours are one pixel apart."""
    match kind:
        case 0:
            return plane
        case 1:
            return _running_sums(plane)
        case 2:
            return bytes((value + up) & 255 for value, up in zip(plane, above, strict=True))
        case 3:
            return _predicted(plane, above, lambda left, up, _corner: (left + up) >> 1)
        case 4:
            return _predicted(plane, above, _paeth)
    raise SpriteError(f"unknown PNG filter {kind}")


def _running_sums(plane: bytes) -> bytes:
    """Sums modulo 256. Almost every row comes here, so all of it runs in C: 20 us a kilobyte."""
    return array("Q", accumulate(plane)).tobytes()[_LOWEST_BYTE::8]


def _predicted(plane: bytes, above: bytes, predict: Callable[[int, int, int], int]) -> bytes:
    row = bytearray()
    left = corner = 0
    for value, up in zip(plane, above, strict=True):
        left = (value + predict(left, up, corner)) & 255
        row.append(left)
        corner = up
    return bytes(row)


def _paeth(left: int, up: int, corner: int) -> int:
    """The neighbour nearest to left + up - corner; ties go left, then up. PNG specification 9.4."""
    to_left, to_up, to_corner = abs(up - corner), abs(left - corner), abs(left + up - 2 * corner)
    if to_left <= to_up and to_left <= to_corner:
        return left
    return up if to_up <= to_corner else corner
