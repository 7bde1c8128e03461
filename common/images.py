"""Deterministic decoding of image files to the model's input pixels, shared by training and
serving.

1. Magic bytes determine the type: PNG, JPEG, WebP, GIF or BMP; AVIF where Pillow has its decoder,
   which the image of the service leaves out unless it is built with it. Only the first
   frame of animations is used.
2. The size in the header is checked against a limit before anything is decoded.
3. 16-bit channels keep their upper 8 bits; palettes, greys, CMYK and others become RGB; transparent
   pixels are blended over white.
4. The largest centred part of the model's proportions is brought to the model's size by a bicubic
   filter whose support grows with the reduction (no aliasing); a model may ask for the whole image
   instead, stretched or between black bars. JPEGs are first decoded at the smallest of 1/2, 1/4 and
   1/8 that is still twice the model's size; other large images are first reduced by whole factors.
5. The EXIF orientation is applied. Colour profiles are not.

An image that is RGB and of the model's size already keeps every pixel as it is. Bytes after the end
of an image are ignored: cameras append previews, videos, notes and padding, programs a line break.
"""

import io
import warnings
import zlib
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    JpegImagePlugin,
    PngImagePlugin,
    WebPImagePlugin,
)
from PIL.ImageFile import ImageFile

from common.model.artifact import Resize


class ImageError(ValueError):
    """An image file that cannot be decoded; the message says why."""


class UnsupportedImage(ImageError):
    """The type is not supported."""


class ImageTooLarge(ImageError):
    """The image has more pixels than the limit."""


class UnreadableImage(ImageError):
    """The file is damaged or truncated."""


# File extensions of supported images, and of unsupported ones, which must not be skipped silently.
DECODED = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".gif", ".bmp")
NOT_DECODED = (".tif", ".tiff", ".heic", ".heif", ".avif", ".jp2", ".ppm", ".pgm", ".tga", ".svg")
ImageType = Literal["PNG", "JPEG", "WEBP", "GIF", "BMP", "AVIF"]
HAS_AVIF = find_spec("PIL._avif") is not None  # costs 5 MB: imported at the first file
_APPLE_PNG = b"\x89PNG\r\n\x1a\n\0\0\0\x04CgBI"
_BEGINNINGS: dict[bytes, ImageType] = {
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"GIF87a": "GIF",
    b"GIF89a": "GIF",
    b"BM": "BMP",
}


def image_type(data: bytes) -> ImageType | None:
    """The type according to the magic bytes."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    if data.startswith(_APPLE_PNG):
        return None
    for beginning, kind in _BEGINNINGS.items():
        if data.startswith(beginning):
            return kind
    return "AVIF" if HAS_AVIF and other_type(data) == "AVIF" else None


# Common unsupported types: magic bytes and names.
_OTHERS = {
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "TIFF",
    b"MM\0+": "TIFF",
    b"\xff\x0a": "JPEG XL",
    b"\0\0\0\x0cJXL ": "JPEG XL",
    b"\0\0\0\x0cjP  ": "JPEG 2000",
    b"\xff\x4f\xff\x51": "JPEG 2000",
    b"\0\0\1\0": "ICO",
    b"8BPS": "Photoshop",
    b"%PDF": "PDF",
    b"<svg": "SVG",
    _APPLE_PNG: "PNG in the form of iOS apps (CgBI)",
}
_BRANDS = {b"avif": "AVIF", b"avis": "AVIF", b"mif1": "HEIC", b"msf1": "HEIC"}  # ISO/IEC 23008-12
_BRANDS |= {b"crx ": "CR3"}  # Canon raw
_BRANDS |= dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx"), "HEIC")


def other_type(data: bytes) -> str:
    """The name of an unsupported type, or "" if it is unknown."""
    if data[4:8] == b"ftyp":
        box = data[8 : min(_big(data[:4]), 256)]
        brands = [box[:4], *(box[at : at + 4] for at in range(8, len(box), 4))]
        names = [_BRANDS[brand] for brand in brands if brand in _BRANDS]
        return "AVIF" if "AVIF" in names else names[0] if names else "MP4"
    for beginning, name in _OTHERS.items():
        if data.startswith(beginning):
            return name
    is_svg = data.lstrip()[:5] == b"<?xml" and b"<svg" in data[:1024]
    return "SVG" if is_svg else ""


def image_size(data: bytes, kind: ImageType) -> tuple[int, int] | None:
    """(width, height) from the header; None for JPEGs and damaged headers."""
    match kind:
        case "PNG" if len(data) >= 24 and data[12:16] == b"IHDR":
            return int.from_bytes(data[16:20]), int.from_bytes(data[20:24])
        case "GIF" if len(data) >= 10:
            return _little(data[6:8]), _little(data[8:10])
        case "BMP" if len(data) >= 26 and _little(data[14:18]) >= 40:
            height = _little(data[22:26])
            return _little(data[18:22]), min(height, 2**32 - height)  # negative: top-down rows
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


def _big(data: bytes) -> int:
    return int.from_bytes(data)


def _little(data: bytes) -> int:
    return int.from_bytes(data, "little")


_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_EIGHT_BITS_RGB = b"\x08\x02\x00\x00\x00"  # depth, colour type, compression, filter, not interlaced
# Chunks that never affect pixels; transparency and orientation may.
_HARMLESS = {b"IDAT", b"sRGB", b"gAMA", b"cHRM", b"pHYs", b"tIME", b"tEXt", b"sBIT", b"bKGD"}


def decode(data: bytes, size: tuple[int, int]) -> NDArray[np.uint8] | None:
    """Fast path: (H, W, 3) pixels, or None unless it is an intact, plain PNG of `size`, (height,
    width).
    """
    height, width = size
    header = b"\x00\x00\x00\x0dIHDR" + width.to_bytes(4) + height.to_bytes(4) + _EIGHT_BITS_RGB
    if data[:29] != _SIGNATURE + header:
        return None
    if (compressed := _image_data(data)) is None:
        return None
    try:
        image = Image.frombytes("RGB", (width, height), compressed, "zip", "RGB", 0)
    except Exception:  # the general decoder reports the error
        return None
    return np.frombuffer(image.tobytes(), np.uint8).reshape(height, width, 3)


def _image_data(data: bytes) -> bytes | None:
    """The IDAT data, if all chunks are intact and known to be harmless and nothing follows IEND."""
    parts, position = list[bytes](), 33
    if zlib.crc32(data[12:29]) != int.from_bytes(data[29:33]):
        return None
    while position + 12 <= len(data):
        name = data[position + 4 : position + 8]
        end = position + 8 + int.from_bytes(data[position : position + 4])
        if zlib.crc32(data[position + 4 : end]) != int.from_bytes(data[end : end + 4]):
            return None
        if name == b"IEND":
            return b"".join(parts) if end + 4 == len(data) else None
        if name not in _HARMLESS:
            return None
        if name == b"IDAT":
            parts.append(data[position + 8 : end])
        position = end + 4
    return None


# Chunks that Pillow needs for the pixels. It rejects damaged ancillary chunks, which browsers
# accept, and long ones, such as some cameras' colour profiles.
_NEEDED = {b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"eXIf"}
_ANCILLARY = 0x20  # lower-case first letter: ancillary


def _without_notes(data: bytes) -> bytes:
    """The PNG without ancillary chunks that never affect pixels or are damaged."""
    parts, position = [data[:8]], 8
    while position + 12 <= len(data):
        name = data[position + 4 : position + 8]
        end = position + 12 + _big(data[position : position + 4])
        can_lack = name[0] & _ANCILLARY
        if not can_lack or (name in _NEEDED and _is_sound(data, position, end)):
            parts.append(data[position:end])
        position = end
        if name == b"IEND":
            break
    return b"".join(parts)


def _is_sound(data: bytes, start: int, end: int) -> bool:
    """Whether the chunk's CRC matches."""
    return zlib.crc32(data[start + 4 : end - 4]) == _big(data[end - 4 : end])


def bytes_behind(data: bytes) -> int:
    """Number of trailing bytes after the image, which `Codec` ignores; 0 if it has no end marker.

    Found from the container structure, without decoding pixels.
    """
    match image_type(data):
        case "PNG":
            end = _end_of_png(data)
        case "JPEG":
            end = _end_of_jpeg(data)
        case "GIF":
            end = _end_of_gif(data)
        case "WEBP":
            size = _little(data[4:8])
            end = 8 + size + size % 2
        case "BMP":
            end = _little(data[2:6])
        case _:
            end = 0
    return len(data) - end if 0 < end < len(data) else 0


def _end_of_png(data: bytes) -> int:
    position = 8
    while position + 12 <= len(data):
        name = data[position + 4 : position + 8]
        position += 12 + _big(data[position : position + 4])
        if name == b"IEND":
            return position
    return 0


def _end_of_jpeg(data: bytes) -> int:
    for marker, position in _segments_of_jpeg(data):
        if marker == 0xDA:  # the first scan: the end marker cannot be part of anything after it
            return data.find(b"\xff\xd9", position) + 2
    return 0


def _segments_of_jpeg(data: bytes) -> Iterator[tuple[int, int]]:
    """The marker and offset of each segment."""
    position = 2
    while data[position : position + 1] == b"\xff" and position + 4 <= len(data):
        marker = data[position + 1]
        yield marker, position
        position += 1 if marker == 0xFF else 2 + _big(data[position + 2 : position + 4])


# JPEG variants of ITU-T T.81, table B.1, that libjpeg cannot decode.
_RARE_FRAMES = {0xC3, 0xC5, 0xC6, 0xC7, 0xCB, 0xCD, 0xCE, 0xCF}


def _rare_jpeg(data: bytes) -> str:
    """The name of an intact but unsupported JPEG coding, or ""."""
    for marker, position in _segments_of_jpeg(data):
        if marker in _RARE_FRAMES:
            return "that is lossless or hierarchical"
        if 0xC0 <= marker <= 0xCA and marker not in (0xC4, 0xC8):
            bits = data[position + 4 : position + 5]
            return f"of {bits[0]} bits" if bits and bits[0] != 8 else ""
    return ""


def _end_of_gif(data: bytes) -> int:
    position = 13 + _color_table(data[10:11])
    while (kind := data[position : position + 1]) in (b"!", b","):
        if kind == b"!":
            position += 2
        else:
            position += 11 + _color_table(data[position + 9 : position + 10])
        while size := _big(data[position : position + 1]):
            position += 1 + size
        position += 1
    return position + 1 if kind == b";" else 0


def _color_table(flags: bytes) -> int:
    """Size in bytes of the colour table that a GIF's flags announce."""
    return 3 * 2 ** (flags[0] % 8 + 1) if flags and flags[0] & 0x80 else 0


MAX_PIXELS = 25_000_000  # default pixel limit
Image.MAX_IMAGE_PIXELS = None  # our own limit is lower and answers 413
# Pillow's warnings about a caller's image must not fill the log.
warnings.filterwarnings("ignore", module=r"PIL\.")
Pixels = NDArray[np.uint8]
# Imported here, so that the first request does not wait 20 ms for it.
_READERS = (BmpImagePlugin, GifImagePlugin, JpegImagePlugin, PngImagePlugin, WebPImagePlugin)
_QUICK_BYTES, _QUICK_PIXELS = 8 * 1024, 256 * 256
_BAND_PIXELS = 2**18
_WHITE = (255, 255, 255, 255)
_REDUCING_GAP = 3.0  # Pillow: "the result is almost indistinguishable from fair resampling"
_ORIENTATION = 0x0112  # EXIF orientation tag
_ON_ITS_SIDE = range(5, 9)
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def is_quick(data: bytes) -> bool:
    """Whether decoding is faster than handing it to another thread."""
    if len(data) > _QUICK_BYTES:
        return False
    kind = image_type(data)
    size = image_size(data, kind) if kind else None
    return size is None or size[0] * size[1] <= _QUICK_PIXELS


class Codec:
    """Decodes images of at most `max_pixels` to one size, (height, width).

    Args:
        resize: treatment of other aspect ratios: the largest centred part (``crop``),
            or the whole image, distorted (``stretch``) or with black bars (``pad``).
    """

    def __init__(self, size: tuple[int, int], max_pixels: int, resize: Resize = "crop") -> None:
        self._size, self._max_pixels, self._resize = size, max_pixels, resize

    def decode(self, data: bytes) -> Pixels:
        """(H, W, 3) RGB pixels of an image file.

        Raises:
            UnsupportedImage, ImageTooLarge, UnreadableImage: the caller adds the field.
        """
        if (pixels := decode(data, self._size)) is not None:
            return pixels
        kind = image_type(data)
        if kind is None:
            raise UnsupportedImage(f"{_EXPECTED}, got {_in_words(data)}")
        if size := image_size(data, kind):
            self._check_size(size)  # now: Pillow sets up its WebP decoder at opening
        try:
            return self._decode(data, kind)
        except (ImageError, MemoryError):
            raise
        except Exception as exc:  # damaged files raise all kinds of exceptions within Pillow
            if kind == "JPEG" and (form := _rare_jpeg(data)):
                raise UnsupportedImage(f"{_EXPECTED} in common coding, got a JPEG {form}") from exc
            if kind == "BMP" and str(exc).startswith("Unsupported BMP"):
                raise UnsupportedImage(f"{_EXPECTED} in common coding, got an {exc}") from exc
            raise UnreadableImage(f"the {kind} image is damaged or cut short") from exc

    def _check_size(self, size: tuple[int, int]) -> None:
        width, height = size
        if width * height > self._max_pixels:
            raise ImageTooLarge(
                f"the image has {width} x {height} pixels, expected at most {self._max_pixels}"
            )

    def _decode(self, data: bytes, kind: ImageType) -> Pixels:
        height, width = self._size
        if kind == "PNG":
            data = _without_notes(data)
        elif kind == "AVIF":
            _load_avif()
        with Image.open(io.BytesIO(data), formats=[kind]) as opened:
            self._check_size(opened.size)
            if kind == "JPEG":
                opened.draft("RGB", (2 * max(height, width),) * 2)
            frame = _first_frame(opened, data, kind)
            is_run_length = any(tile.codec_name == "bmp_rle" for tile in opened.tile)
            image = _run_length_decoded(opened, data) if is_run_length else opened
            image.load()
            if kind == "PNG":
                _correct_transparency(image, data[24])
            orientation = _orientation(image)
            target = (height, width) if orientation in _ON_ITS_SIDE else (width, height)
            rgb = image.convert("RGB") if _has_no_alpha(image, kind) else _to_rgb(image)
            fitted = _fitted(_on_canvas(rgb, frame), target, self._resize)
        if orientation in _UPRIGHT:
            fitted = fitted.transpose(_UPRIGHT[orientation])
        return np.asarray(fitted)


_EXPECTED = f"expected a PNG, JPEG, WebP, GIF{', BMP or AVIF' if HAS_AVIF else ' or BMP'} image"


def _load_avif() -> None:
    from PIL import AvifImagePlugin

    AvifImagePlugin.DEFAULT_MAX_THREADS = 1  # an image, as for all other types


def _in_words(data: bytes) -> str:
    """Describes what came instead of a supported image."""
    if name := other_type(data):
        return f"one of the type {name}; save it as JPEG or PNG"
    return f"{len(data)} bytes that begin with {data[:8].hex(' ')}" if data else "nothing"


def _correct_transparency(image: Image.Image, depth: int) -> None:
    """Maps a PNG's transparent colour to the 8-bit values that Pillow decodes to.

    Of colours of 16 bits it keeps the upper 8, and with them are transparent those that share them.
    """
    found = image.info.get("transparency")
    if image.mode == "P" or not isinstance(found, (int, tuple)):
        return
    top = (1 << depth) - 1
    values = [value & top for value in (found if isinstance(found, tuple) else (found,))]
    if image.mode == "RGB":
        image.info["transparency"] = tuple(value >> max(0, depth - 8) for value in values)
    elif depth < 8:
        image.info["transparency"] = values[0] * 255 // top
    else:
        image.info["transparency"] = values[0]


def _has_no_alpha(image: Image.Image, kind: ImageType) -> bool:
    """Whether a BMP's alpha channel is all zero, that is, unused; browsers ignore it then."""
    return kind == "BMP" and image.mode == "RGBA" and image.getchannel("A").getextrema()[1] == 0


def _run_length_decoded(image: ImageFile, data: bytes) -> Image.Image:
    """A run-length encoded BMP. As in browsers, pixels that it skips are transparent; Pillow drops
    skipped rows and rejects what ends early.
    """
    tile: Any = image.tile[0]
    _, is_four_bits, direction = tile.args
    width, height = image.size
    indices, skipped = bytearray(), bytearray(width * height)
    try:
        for x, y, run in _runs(data, tile.offset, is_four_bits):
            if y >= height:
                break
            if x < width:
                if gap := y * width + x - len(indices):
                    skipped[len(indices) : len(indices) + gap] = b"\xff" * gap
                    indices += bytes(gap)
                indices += run[: width - x]
    except EOFError:
        if len(indices) < width * height:
            raise
    skipped[len(indices) :] = b"\xff" * (width * height - len(indices))
    indices += bytes(width * height - len(indices))
    found = Image.frombytes("L" if image.mode == "L" else "P", image.size, indices)
    mask = Image.frombytes("L", image.size, skipped)
    del indices, skipped  # 25 MB each for the largest image
    if direction < 0:
        found, mask = (one.transpose(Image.Transpose.FLIP_TOP_BOTTOM) for one in (found, mask))
    if image.palette:
        rawmode, colors = image.palette.getdata()
        found.putpalette(colors, rawmode)
    elif image.mode == "1":
        found.putpalette([0, 0, 0, 255, 255, 255])
    rgb = found.convert("RGB")
    rgb.paste(_WHITE[:3], mask=mask)
    return rgb


def _runs(data: bytes, position: int, is_four_bits: bool) -> Iterator[tuple[int, int, bytes]]:
    """The column, row and colours of each run, in the file's order of rows.

    Raises:
        EOFError: the file has no end marker.
    """
    x = y = 0
    while len(pair := data[position : position + 2]) == 2:
        number, value = pair
        position += 2
        if number:
            run = bytes([value >> 4, value & 15]) * 128 if is_four_bits else pair[1:] * number
            yield x, y, run[:number]
            x += number
        elif value == 0:  # end of the row
            x, y = 0, y + 1
        elif value == 1:  # end of the image
            return
        elif value == 2:  # a move
            x += _big(data[position : position + 1])
            y += _big(data[position + 1 : position + 2])
            position += 2
        else:
            size = (value + 1) // 2 if is_four_bits else value
            run = data[position : position + size]
            yield x, y, bytes(int(one, 16) for one in run.hex())[:value] if is_four_bits else run
            position, x = position + size + size % 2, x + value
    raise EOFError


def _first_frame(image: Image.Image, data: bytes, kind: ImageType) -> tuple[int, ...] | None:
    """(left, top, right, bottom) of the first animation frame on the canvas."""
    if isinstance(image, GifImagePlugin.GifImageFile) and image.tile:
        return image.tile[0][1]
    position = 12
    while kind == "WEBP" and image.mode == "RGB" and position + 20 <= len(data):
        if data[position : position + 4] == b"ANMF":
            left, top, width, height = (
                _little(data[at : at + 3]) for at in range(position + 8, position + 20, 3)
            )
            return 2 * left, 2 * top, 2 * left + width + 1, 2 * top + height + 1
        size = _little(data[position + 4 : position + 8])
        position += 8 + size + size % 2
    return None


def _on_canvas(image: Image.Image, frame: tuple[int, ...] | None) -> Image.Image:
    """Pastes the first frame on its canvas; the rest is transparent."""
    if frame is None or frame == (0, 0, *image.size):
        return image
    canvas = Image.new("RGB", image.size, _WHITE[:3])
    canvas.paste(image.crop(frame), frame[:2])  # type: ignore[arg-type]
    return canvas


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation; 1, upright, if absent or invalid."""
    if "exif" not in image.info:
        return 1
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # damaged EXIF is no reason to reject the image
        return 1


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I"):  # 16 bits per pixel; convert() would clip at 255
        grey = np.asarray(image)
        eight = (grey >> 8).clip(0, 255).astype(np.uint8)
        if (clear := image.info.get("transparency")) is not None:
            eight[grey == clear] = 255
        return Image.fromarray(eight).convert("RGB")
    if image.has_transparency_data:
        return _on_white(image)
    return image.convert("RGB")


def _on_white(image: Image.Image) -> Image.Image:
    """Blends over white in bands: copies of a large image would need several times its memory."""
    flat = Image.new("RGB", image.size)
    rows = max(1, _BAND_PIXELS // image.width)
    for top in range(0, image.height, rows):
        bottom = min(image.height, top + rows)
        band = image.crop((0, top, image.width, bottom)).convert("RGBA")
        white = Image.new("RGBA", band.size, _WHITE)
        flat.paste(Image.alpha_composite(white, band).convert("RGB"), (0, top))
    return flat


def _fitted(image: Image.Image, size: tuple[int, int], resize: Resize) -> Image.Image:
    """The image resized to `size`, (width, height)."""
    if image.size == size:
        return image
    if resize == "pad":
        return _padded(image, size)
    box = (0.0, 0.0, float(image.width), float(image.height))
    if resize == "crop":
        scale = min(image.width / size[0], image.height / size[1])
        width, height = size[0] * scale, size[1] * scale
        left, top = (image.width - width) / 2, (image.height - height) / 2
        box = (left, top, left + width, top + height)
    return image.resize(size, Image.Resampling.BICUBIC, box=box, reducing_gap=_REDUCING_GAP)


def _padded(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    scale = max(image.width / size[0], image.height / size[1])
    inner = (max(1, round(image.width / scale)), max(1, round(image.height / scale)))
    padded = Image.new("RGB", size)
    place = ((size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2)
    padded.paste(_fitted(image, inner, "stretch"), place)
    return padded


def read_pixels(png: bytes) -> NDArray[np.uint8]:
    """(H, W, 3) RGB pixels of a captured PNG, unchanged.

    Raises:
        UnreadableImage: it is not a PNG.
    """
    try:
        with Image.open(io.BytesIO(png), formats=["PNG"]) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as exc:
        raise UnreadableImage(f"Expected a PNG, got {len(png)} unreadable bytes") from exc
