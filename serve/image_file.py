"""Image files by their bytes alone: of what type, how large, and where they end."""

import re
from typing import Literal

ImageType = Literal["PNG", "JPEG", "WEBP", "GIF", "BMP"]

_BEGINNINGS: dict[bytes, ImageType] = {
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"GIF87a": "GIF",
    b"GIF89a": "GIF",
    b"BM": "BMP",
}

# A marker in JPEG's entropy-coded data: not a stuffed 0xFF, a restart or a fill byte.
_JPEG_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]", re.DOTALL)
_JPEG_END = 0xD9
_JPEG_WITHOUT_LENGTH = {0x01, *range(0xD0, 0xD9)}


def image_type(data: bytes) -> ImageType | None:
    """The type that the first bytes claim."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    for beginning, kind in _BEGINNINGS.items():
        if data.startswith(beginning):
            return kind
    return None


def image_size(data: bytes, kind: ImageType) -> tuple[int, int] | None:
    """(width, height) that the header claims; None for JPEGs, and where the header is damaged."""
    match kind:
        case "PNG" if len(data) >= 24:
            return int.from_bytes(data[16:20]), int.from_bytes(data[20:24])
        case "GIF" if len(data) >= 10:
            return _little(data[6:8]), _little(data[8:10])
        case "BMP" if len(data) >= 26 and _little(data[14:18]) >= 40:
            height = _little(data[22:26])
            return _little(data[18:22]), min(height, 2**32 - height)  # negative: from the top down
        case "WEBP":
            return _webp_size(data)
    return None


def _webp_size(data: bytes) -> tuple[int, int] | None:
    form, header = data[12:16], data[20:30]
    if len(header) < 10:
        return None
    if form == b"VP8X":
        return _little(header[4:7]) + 1, _little(header[7:10]) + 1
    if form == b"VP8L":
        bits = _little(header[1:5])
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if form == b"VP8 ":
        return _little(header[6:8]) & 0x3FFF, _little(header[8:10]) & 0x3FFF
    return None


def trailing_bytes(data: bytes, kind: ImageType) -> int:
    """Bytes after the end of a file that could be decoded. Zero too where the end cannot be told.

    Cameras append further pictures, films and notes to JPEGs; such are part of the file.
    """
    end = _ENDS[kind](data)
    if end is None or end >= len(data):
        return 0
    if kind == "JPEG" and _is_camera_appendix(data[end:]):
        return 0
    return len(data) - end


def _png_end(data: bytes) -> int | None:
    position = 8
    while position + 8 <= len(data):
        length, name = (
            int.from_bytes(data[position : position + 4]),
            data[position + 4 : position + 8],
        )
        position += 12 + length
        if name == b"IEND":
            return position
    return None


def _jpeg_end(data: bytes) -> int | None:
    position = 2
    while marker := _JPEG_MARKER.search(data, position):
        kind, position = data[marker.start() + 1], marker.end()
        if kind == _JPEG_END:
            return position
        if kind not in _JPEG_WITHOUT_LENGTH:
            position += int.from_bytes(data[position : position + 2])
    return None


def _is_camera_appendix(rest: bytes) -> bool:
    padding_off = rest.lstrip(b"\x00")
    return (
        not padding_off
        or padding_off.startswith(b"\xff\xd8\xff")  # MPO, and gain maps of HDR pictures
        or b"ftyp" in padding_off[:8]  # motion pictures
        or padding_off.endswith(b"SEFT")  # Samsung's notes
    )


def _webp_end(data: bytes) -> int:
    length = _little(data[4:8])
    return 8 + length + length % 2


def _gif_end(data: bytes) -> int | None:
    position = 13 + _colour_table(data[10])
    while position < len(data):
        block = data[position]
        if block == 0x3B:
            return position + 1
        if block == 0x2C and position + 10 <= len(data):  # an image: header, colours, code size
            position += 11 + _colour_table(data[position + 9])
        elif block == 0x21:  # an extension: label
            position += 2
        else:
            return None
        while position < len(data) and data[position]:
            position += 1 + data[position]
        position += 1
    return None


def _colour_table(flags: int) -> int:
    return 3 * 2 ** ((flags & 7) + 1) if flags & 0x80 else 0


def _bmp_end(data: bytes) -> int | None:
    """Where the header says, unless that is before the pixels: many writers leave it zero."""
    length, pixels = _little(data[2:6]), _little(data[10:14])
    return length if length > pixels else None


def _little(data: bytes) -> int:
    return int.from_bytes(data, "little")


_ENDS = {"PNG": _png_end, "JPEG": _jpeg_end, "WEBP": _webp_end, "GIF": _gif_end, "BMP": _bmp_end}
