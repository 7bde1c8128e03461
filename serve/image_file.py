"""Image files by their bytes alone: of what type and how large."""

from typing import Literal

ImageType = Literal["PNG", "JPEG", "WEBP", "GIF", "BMP"]

_BEGINNINGS: dict[bytes, ImageType] = {
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"GIF87a": "GIF",
    b"GIF89a": "GIF",
    b"BM": "BMP",
}


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


def _little(data: bytes) -> int:
    return int.from_bytes(data, "little")
