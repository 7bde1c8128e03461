"""common/images.py: every kind of image file reaches the model the
same way."""

import io
import struct
import zlib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from benchmarks.fuzz import pngs
from common import images
from common.images import (
    HAS_AVIF,
    Codec,
    ImageTooLarge,
    Pixels,
    UnreadableImage,
    UnsupportedImage,
    _to_rgb,
    bytes_behind,
    image_size,
    image_type,
    is_quick,
    other_type,
)
from tests.serve.serving import image_file, pixels

GOLDEN = Path(__file__).parent / "golden"
KINDS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
CODEC = Codec((32, 32), max_pixels=1_000_000)

# What damaged EXIF makes Pillow say; callers need not care.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")


def golden_files() -> list[Path]:
    return sorted(
        path
        for path in GOLDEN.iterdir()
        if path.suffix in {".png", ".jpeg", ".webp", ".gif", ".bmp"}
        and not path.name.endswith(".expected.png")
    )


@pytest.mark.parametrize("path", golden_files(), ids=lambda path: path.stem)
def test_every_mode_and_type_becomes_the_golden_pixels(path: Path) -> None:
    expected = np.asarray(Image.open(path.with_suffix("").with_suffix(".expected.png")))
    found = CODEC.decode(path.read_bytes())
    assert found.dtype == np.uint8
    # Decoders of lossy files differ by a step between builds; everything else is exact.
    step = 2 if path.suffix in {".jpeg", ".webp"} else 0
    assert np.abs(found.astype(int) - expected.astype(int)).max() <= step


def test_golden_files_are_of_every_type() -> None:
    assert {image_type(path.read_bytes()) for path in golden_files()} == set(KINDS)
    assert len(golden_files()) >= 27


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_turns_the_image_upright(orientation: int) -> None:
    data = (GOLDEN / f"turned_{orientation}.jpeg").read_bytes()
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    expected = CODEC.decode(image_file(upright, "PNG"))
    assert np.abs(CODEC.decode(data).astype(int) - expected.astype(int)).mean() < 4


@given(st.integers(0, 2**32 - 1), st.integers(1, 48), st.integers(1, 48))
def test_an_image_of_the_models_size_keeps_every_pixel(seed: int, height: int, width: int) -> None:
    image = pixels(seed, height, width)
    assert (Codec((height, width), 10_000).decode(image_file(image)) == image).all()


def test_16_bits_become_the_upper_8() -> None:
    grey = np.arange(32 * 32, dtype=np.uint16).reshape(32, 32) * 64
    decoded = CODEC.decode(image_file(Image.fromarray(grey)))
    assert (decoded == (grey >> 8)[..., np.newaxis]).all()


def test_what_is_transparent_lies_on_white() -> None:
    clear = Image.new("RGBA", (32, 32), (200, 0, 0, 0))
    for kind in ("PNG", "WEBP"):
        assert (CODEC.decode(image_file(clear, kind)) == 255).all()


def test_the_first_frame_of_a_film_counts() -> None:
    frames = [Image.new("RGB", (32, 32), colour) for colour in ("red", "blue")]
    for kind, options in (("GIF", {}), ("WEBP", {"lossless": True}), ("PNG", {})):
        film = image_file(frames[0], kind, save_all=True, append_images=frames[1:], **options)
        assert (CODEC.decode(film) == (255, 0, 0)).all()


def test_the_centre_of_a_wide_image_is_seen() -> None:
    image = np.zeros((32, 96, 3), np.uint8)
    image[:, 32:64] = 255
    assert CODEC.decode(image_file(image)).mean() > 250


def test_a_model_may_ask_for_the_whole_image() -> None:
    image = np.zeros((32, 96, 3), np.uint8)
    image[:, :32], image[:, 32:64], image[:, 64:] = 255, 0, 90
    stretched = Codec((32, 32), 10_000, "stretch").decode(image_file(image))
    assert (stretched[:, 1] > 250).all()
    assert abs(int(stretched[0, 30, 0]) - 90) < 3
    padded = Codec((30, 30), 10_000, "pad").decode(image_file(image))
    assert not padded[:10].any()
    assert not padded[20:].any()
    assert (padded[10:20, 1] > 250).all()


def test_a_large_photo_looks_as_if_it_was_decoded_whole() -> None:
    photo = pixels(3, 768, 1024)
    assert (
        np.abs(
            CODEC.decode(image_file(photo, "JPEG", quality=95)).astype(int)
            - CODEC.decode(image_file(photo)).astype(int)
        ).max()
        <= 6
    )


_PREVIEW = image_file(pixels(9, 24, 24), "JPEG")
_NOISE = np.random.default_rng(0).bytes(3000)
TRAILERS: dict[str, bytes] = {  # what cameras, programs and file systems leave behind an image
    "a line break": b"\n",
    "a line break of Windows": b"\r\n",
    "one 0xFF": b"\xff",
    "0xFF": b"\xff" * 4096,
    "one zero": b"\0",
    "zeros": b"\0" * 4096,
    "spaces": b" " * 100,
    "text": b"garbage",
    "notes of a camera": _NOISE[:300] + b"SEFT",
    "noise": _NOISE,
    "a preview": _PREVIEW,
    "previews": b"\0" * 64 + _PREVIEW + b"\xff" + _PREVIEW,
    "half a preview": _PREVIEW[: len(_PREVIEW) // 2],
    "preview of HTC, behind a line of its own": b"\0\0\0\0" + _PREVIEW + b"HTC!",
    "sections of Panasonic": b"\0" * 2 + b"Panasonic" + _NOISE[:600],
    "padding of Sony": b"\xff\xd9" * 2 + b"\0" * 511,
    "notes of BlackBerry": b"BlackBerry 9780" + _NOISE[:200],
    "padding of Minolta": b"\0MLT0" + b"\xff" * 512,
    "ExifTool's AFCP": b"AXS!\0\x01\0\0" + _NOISE[:64] + b"AXS!\0\0\0\0",
    "PhotoMechanic": _NOISE[:200] + b"\0\0\0\xc8cbipcbbl",
    "Samsung's sections": b"\0\0\x30\x0a" + _NOISE[:90] + b"SEFH\0\0\0\0SEFT",
    "a film": b"\0\0\0\x18ftypmp42" + _NOISE,
    "an archive": b"PK\x03\x04" + _NOISE,
    "another end of a JPEG": b"\xff\xd9",
    "a comment of JPEG": b"\xff\xfe\x00\x04ab",
    "another end of a PNG": b"\0\0\0\0IEND\xaeB`\x82",
    "more pixels of a PNG": b"\0\0\0\x05IDATabcdefghi",
    "another end of a GIF": b";",
    "another frame of a GIF": b"!\xf9\x04\0\0\0\0\0,\0\0\0\0\x20\0\x20\0\0\x08",
    "more of a WebP": b"EXIF\xff\xff\xff\xff",
    "another PNG": image_file(pixels(8)),
    "another GIF": image_file(pixels(8), "GIF"),
    "another WebP": image_file(pixels(8), "WEBP"),
}


@pytest.mark.parametrize("trailer", TRAILERS)
@pytest.mark.parametrize("kind", [*KINDS, "MPO"])
def test_what_follows_the_end_of_an_image_changes_no_pixel(kind: str, trailer: str) -> None:
    photo = pixels(1, 70, 90)
    files = [image_file(pixels(), kind), image_file(photo, kind)]
    if kind == "JPEG":
        turned = Image.Exif()
        turned[0x0112] = 6
        files.append(image_file(photo, kind, progressive=True, exif=turned))
    if kind in ("GIF", "WEBP", "MPO"):
        frames = [Image.fromarray(pixels(seed)) for seed in range(3)]
        files.append(image_file(frames[0], kind, save_all=True, append_images=frames[1:]))
    for file in files:
        assert np.array_equal(CODEC.decode(file + TRAILERS[trailer]), CODEC.decode(file))
        behind = bytes_behind(file)
        assert bytes_behind(file + TRAILERS[trailer]) == behind + len(TRAILERS[trailer])
        assert behind == 0 or kind == "MPO", "whose other images lie behind the first"


@pytest.mark.parametrize("trailer", ["a line break", "one 0xFF", "one zero", "spaces", "text"])
@pytest.mark.parametrize("kind", KINDS)
def test_half_a_file_stays_damaged_whatever_follows(kind: str, trailer: str) -> None:
    file = image_file(pixels(), kind)
    with pytest.raises(UnreadableImage, match=f" {kind} "):
        CODEC.decode(file[: len(file) // 2] + TRAILERS[trailer])


def test_what_follows_does_not_hide_how_large_an_image_is() -> None:
    large = image_file(Image.new("L", (1001, 1000)), "JPEG")
    with pytest.raises(ImageTooLarge):
        CODEC.decode(large + _PREVIEW)


@pytest.mark.parametrize("kind", KINDS)
def test_type_and_size_are_those_of_the_header(kind: str) -> None:
    data = image_file(pixels(1, 20, 30), kind)
    assert image_type(data) == kind
    if kind != "JPEG":
        assert image_size(data, kind) == (30, 20)


@given(st.sampled_from(golden_files()), st.data())
def test_the_end_of_a_damaged_file_is_looked_for_within_it(path: Path, data: st.DataObject) -> None:
    file = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(0, 4))):
        file[data.draw(st.integers(0, len(file) - 1))] = data.draw(
            st.sampled_from([0, 1, 254, 255])
        )
    part = bytes(file[: data.draw(st.integers(0, len(file)))])
    assert 0 <= bytes_behind(part) <= len(part)


@pytest.mark.parametrize("kind", KINDS)
def test_half_a_file_is_called_damaged(kind: str) -> None:
    data = image_file(pixels(), kind)
    with pytest.raises(UnreadableImage, match=f" {kind} "):
        CODEC.decode(data[: len(data) // 2])


def _brands(major: bytes, *others: bytes) -> bytes:
    brands = major + bytes(4) + b"".join(others)
    return struct.pack(">I", 8 + len(brands)) + b"ftyp" + brands + b"\0\0\0\x08mdat"


OTHERS: dict[str, list[bytes]] = {
    "HEIC": [_brands(b"heic"), _brands(b"mif1", b"heic"), _brands(b"msf1", b"hevc")],
    "AVIF": [
        image_file(pixels(), "AVIF"),  # where there is no decoder of it
        _brands(b"avif"),
        _brands(b"avis"),
        _brands(b"mif1", b"miaf", b"avif"),
    ],
    "TIFF": [image_file(pixels(), "TIFF"), b"MM\0*\0\0\0\x08", b"II+\0\x08\0\0\0"],
    "JPEG XL": [b"\xff\x0a\0", b"\0\0\0\x0cJXL \r\n\x87\n"],
    "JPEG 2000": [image_file(pixels(), "JPEG2000"), b"\xff\x4f\xff\x51\0"],
    "ICO": [image_file(pixels(), "ICO")],
    "PNG in the form of iOS apps": [
        image_file(pixels())[:8] + pngs.chunk(b"CgBI", b"P\0 \2") + image_file(pixels())[8:]
    ],
    "Photoshop": [b"8BPS\0\x01"],
    "PDF": [b"%PDF-1.7"],
    "SVG": [b"<svg/>", b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>'],
    "MP4": [_brands(b"isom", b"mp42")],
    "CR3": [_brands(b"crx ", b"isom")],
    "": [b"", b"text", b"\0", b"ftyp", b"\0\0\0\x08ftyp"[:7], b"<?xml?>"],
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_types_are_refused_by_their_names(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "HAS_AVIF", False)
    for data in OTHERS[name]:
        with pytest.raises(UnsupportedImage, match=f"PNG, JPEG, WebP, GIF.* {name}"):
            CODEC.decode(data)
        assert other_type(data).partition(" (")[0] == name


def test_avif_is_decoded_where_pillow_has_its_decoder() -> None:
    assert HAS_AVIF, "in the wheel that the lock names"
    photo = Image.fromarray(pixels(3, 24, 24)).resize((400, 300), Image.Resampling.BICUBIC)
    decoded = CODEC.decode(image_file(photo, "AVIF", quality=95))
    expected = CODEC.decode(image_file(photo))
    assert np.abs(decoded.astype(int) - expected.astype(int)).mean() < 3
    clear = Image.new("RGBA", (32, 32), (200, 0, 0, 0))
    assert (CODEC.decode(image_file(clear, "AVIF")) == 255).all()
    turned = Image.Exif()
    turned[0x0112] = 6
    upright = CODEC.decode(image_file(photo, "AVIF", quality=95, exif=turned))
    assert np.abs(upright.astype(int) - np.rot90(decoded, -1).astype(int)).mean() < 12
    frames = [Image.new("RGB", (64, 64), colour) for colour in ("red", "blue")]
    film = image_file(frames[0], "AVIF", save_all=True, append_images=frames[1:])
    assert tuple(CODEC.decode(film)[9, 9] > 128) == (True, False, False)


def test_an_avif_has_the_limits_of_all_images() -> None:
    file = image_file(Image.new("L", (1001, 1000)), "AVIF", speed=10)
    with pytest.raises(ImageTooLarge, match=r"1001 x 1000 .*1000000"):
        CODEC.decode(file)
    file = image_file(pixels(), "AVIF")
    for damaged in (file[: len(file) // 2], file[:40], file.replace(b"av1C", b"av1X")):
        with pytest.raises(UnreadableImage, match=" AVIF "):
            CODEC.decode(damaged)


def _png(
    width: int, height: int, depth: int, color: int, rows: bytes, before: Sequence[bytes] = ()
) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    chunks = [pngs.chunk(b"IHDR", header), *before, pngs.chunk(b"IDAT", zlib.compress(rows))]
    return b"\x89PNG\r\n\x1a\n" + b"".join([*chunks, pngs.chunk(b"IEND", b"")])


def _png_that_claims(width: int, height: int) -> bytes:
    return _png(width, height, 8, 2, bytes(100_000))


_TRANSPARENT = 5  # of the samples that are drawn


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("color", [0, 2], ids=["grey", "RGB"])
def test_the_colour_that_a_png_calls_transparent_is_white_and_no_other(
    depth: int, color: int
) -> None:
    if color == 2 and depth < 8:
        return
    top = 2**depth - 1
    # Of colours of 16 bits the upper 8 decide.
    steps = np.arange(32 * 32).reshape(32, 32) % (256 if color else 1024)
    values = steps * 0x0101 & top
    clear = int(values[0, _TRANSPARENT])
    samples = values[..., np.newaxis].repeat(3 if color else 1, 2).reshape(32, -1)
    bits = samples[..., np.newaxis] >> np.arange(depth - 1, -1, -1) & 1
    rows = np.packbits(bits.reshape(32, -1).astype(np.uint8), axis=1)
    trns = struct.pack(">H", clear) * (3 if color else 1)
    file = _png(
        32,
        32,
        depth,
        color,
        b"".join(b"\0" + row.tobytes() for row in rows),
        [pngs.chunk(b"tRNS", trns)],
    )
    eight = values >> 8 if depth == 16 else values * 255 // top
    expected = np.where(values == clear, 255, eight)
    assert (CODEC.decode(file) == expected[..., np.newaxis]).all()


_LONG = 3 * 2**20
NOTES: dict[str, bytes] = {
    "a profile that unpacks to 3 MiB": pngs.chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(_LONG))),
    "a profile of 3 MiB": pngs.chunk(
        b"iCCP", b"a\0\0" + zlib.compress(np.random.default_rng(0).bytes(_LONG))
    ),
    "packed text": pngs.chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(_LONG))),
    "packed Unicode": pngs.chunk(b"iTXt", b"a\0\1\0\0\0" + zlib.compress(bytes(_LONG))),
    "plain text": pngs.chunk(b"tEXt", b"a\0" + b"b" * _LONG),
    "70 texts": pngs.chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(2**20))) * 70,
    "a profile that is none": pngs.chunk(b"iCCP", b"a\0\0none"),
    "animation control that is short": pngs.chunk(b"acTL", b"\0"),
    "a private chunk": pngs.chunk(b"prVt", b"mine"),
}
for _name in (b"tEXt", b"zTXt", b"iTXt", b"iCCP", b"gAMA", b"cHRM", b"sRGB", b"pHYs", b"tIME"):
    NOTES[f"a wrong sum of {_name.decode()}"] = pngs.chunk(_name, b"a\0\0\0")[:-1] + b"\xee"
for _name in (b"sBIT", b"bKGD", b"hIST", b"sPLT", b"eXIf", b"tRNS", b"prVt", b"acTL", b"fcTL"):
    NOTES[f"a wrong sum of {_name.decode()}"] = pngs.chunk(_name, b"\0" * 6)[:-1] + b"\xee"


@pytest.mark.parametrize("note", NOTES)
@pytest.mark.parametrize("side", [32, 16])
def test_what_a_png_says_beside_its_pixels_does_not_damage_it(note: str, side: int) -> None:
    rows = b"".join(b"\0" + b"\xc8\0\0" * side for _ in range(side))
    assert (CODEC.decode(_png(side, side, 8, 2, rows, [NOTES[note]])) == (200, 0, 0)).all()


@pytest.mark.parametrize("name", [b"IHDR", b"PLTE"])
def test_a_wrong_sum_of_what_a_png_needs_is_damage(name: bytes) -> None:
    file = bytearray(image_file(Image.fromarray(pixels()).quantize(16)))
    at = file.index(name)
    file[at + 4 + int.from_bytes(file[at - 4 : at])] ^= 1
    with pytest.raises(UnreadableImage):
        CODEC.decode(bytes(file))


def _bmp(bits: int, compression: int, data: bytes, header: int = 40, more: bytes = b"") -> bytes:
    fields = struct.pack(
        "<IiiHHIIiiII", header, 32, 32, 1, bits, compression, len(data), 0, 0, 0, 0
    )
    info = (fields + more).ljust(header, b"\0")
    start = 14 + len(info)
    return b"BM" + struct.pack("<IHHI", start + len(data), 0, 0, start) + info + data


_MASKS = struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
_BLUE_GREEN_RED = bytes([10, 100, 200, 0])


@pytest.mark.parametrize("header", [56, 108, 124])
def test_an_alpha_of_a_bmp_that_is_all_zero_was_never_written(header: int) -> None:
    file = _bmp(32, 3, _BLUE_GREEN_RED * 1024, header, _MASKS)
    assert (CODEC.decode(file) == (200, 100, 10)).all()
    one = _bmp(32, 3, bytes([10, 100, 200, 255]) + _BLUE_GREEN_RED * 1023, header, _MASKS)
    decoded = CODEC.decode(one)
    assert tuple(decoded[31, 0]) == (200, 100, 10)
    assert (decoded[:31] == 255).all()


@pytest.mark.parametrize(
    "file",
    [
        _bmp(2, 0, bytes(256), more=bytes(16)),
        _bmp(64, 0, bytes(8192)),
        _bmp(32, 6, bytes(4096), more=_MASKS),
        _bmp(32, 11, bytes(4096)),
        _bmp(24, 4, bytes(200)),
        _bmp(0, 4, image_file(pixels(), "JPEG")),
        _bmp(0, 5, image_file(pixels())),
        _bmp(16, 3, bytes(2048), 108, struct.pack("<IIII", 0xF00, 0xF0, 0xF, 0)),
        b"BM" + struct.pack("<IHHIIIIHH", 3102, 0, 0, 30, 16, 32, 32, 1, 24) + bytes(3072),
    ],
    ids=["2 bits", "64 bits", "alpha masks", "CMYK", "RLE24", "JPEG", "PNG", "4 bits each", "OS/2"],
)
def test_a_kind_of_bmp_that_is_not_decoded_is_not_called_damaged(file: bytes) -> None:
    with pytest.raises(UnsupportedImage):
        CODEC.decode(file)


_COLORS = np.random.default_rng(3).integers(0, 255, (16, 3)).astype(np.uint8)
_INDICES = np.random.default_rng(4).integers(0, 16, (32, 32)).astype(np.uint8)
_UPWARDS = _INDICES[::-1]
_END_OF_ROW, _END = b"\0\0", b"\0\1"


def _literal(indices: Pixels, bits: int) -> bytes:
    """At least three indices as they are, with their number before them."""
    packed = indices if bits == 8 else indices[::2] << 4 | np.append(indices, 0)[1::2]
    data = packed.astype(np.uint8).tobytes()
    return bytes([0, len(indices)]) + data + bytes(len(data) % 2)


def _run_length_bmp(bits: int, data: bytes) -> bytes:
    table = np.pad(_COLORS[:, ::-1], ((0, 2**bits - 16), (0, 1))).tobytes()
    file = _bmp(bits, 1 if bits == 8 else 2, table + data)
    return file[:10] + struct.pack("<I", 54 + len(table)) + file[14:]


def _skipping() -> tuple[bytes, Pixels]:
    """A move, an empty row, a row that is longer than the image, and an early end."""
    shown = np.full((32, 32, 3), 255, np.uint8)
    shown[29, 4:8], shown[27] = _COLORS[3], _COLORS[5]
    return b"\0\2\4\2\4\x33" + _END_OF_ROW * 2 + b"\x28\x55" + _END_OF_ROW + _END, shown


_RUN_LENGTHS = {
    "literal, 8 bits": (8, b"".join(_literal(row, 8) + _END_OF_ROW for row in _UPWARDS) + _END),
    "literal, 4 bits": (4, b"".join(_literal(row, 4) + _END_OF_ROW for row in _UPWARDS) + _END),
    "odd literals": (
        4,
        b"".join(_literal(row[:7], 4) + _literal(row[7:], 4) + _END_OF_ROW for row in _UPWARDS),
    ),
    "no end": (8, b"".join(_literal(row, 8) + _END_OF_ROW for row in _UPWARDS)[:-2]),
    "runs, 8 bits": (
        8,
        b"".join(b"".join(bytes([1, one]) for one in row) + _END_OF_ROW for row in _UPWARDS) + _END,
    ),
    "runs, 4 bits": (
        4,
        b"".join(
            b"".join(bytes([2, one << 4 | two]) for one, two in row.reshape(-1, 2)) + _END_OF_ROW
            for row in _UPWARDS
        ),
    ),
}


@pytest.mark.parametrize("name", _RUN_LENGTHS)
def test_a_bmp_of_run_lengths_has_every_pixel(name: str) -> None:
    assert (CODEC.decode(_run_length_bmp(*_RUN_LENGTHS[name])) == _COLORS[_INDICES]).all()


def test_what_a_bmp_of_run_lengths_skips_is_white() -> None:
    data, shown = _skipping()
    eight = data.replace(b"\x33", b"\x03").replace(b"\x55", b"\x05")
    assert (CODEC.decode(_run_length_bmp(4, data)) == shown).all()
    assert (CODEC.decode(_run_length_bmp(8, eight)) == shown).all()
    with pytest.raises(UnreadableImage):
        CODEC.decode(_run_length_bmp(4, data[:-2]))


def test_a_bmp_of_grey_run_lengths_has_every_pixel() -> None:
    for colors in (2, 256):
        greys = np.arange(256) if colors == 256 else np.array([0, 255])
        rows = _INDICES.astype(int) % colors
        data = (
            b"".join(_literal(row.astype(np.uint8), 8) + _END_OF_ROW for row in rows[::-1]) + _END
        )
        table = greys[:, np.newaxis].repeat(4, 1).astype(np.uint8).tobytes()
        file = bytearray(_bmp(8, 1, table + data))
        file[10:14], file[46:50] = struct.pack("<I", 54 + len(table)), struct.pack("<I", colors)
        assert (CODEC.decode(bytes(file)) == greys[rows][..., np.newaxis]).all()


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
@pytest.mark.parametrize("place", [(0, 0), (8, 12)])
def test_what_the_first_frame_of_a_webp_leaves_of_the_canvas_is_white(
    mode: str, place: tuple[int, int]
) -> None:
    frames = [Image.new(mode, (16, 10), color) for color in ("red", "blue")]
    options = {"save_all": True, "append_images": frames[1:], "lossless": True}
    file = bytearray(image_file(frames[0], "WEBP", **options))
    file[24:30] = (31).to_bytes(3, "little") * 2
    at = file.index(b"ANMF") + 8
    file[at : at + 6] = b"".join((side // 2).to_bytes(3, "little") for side in place)
    expected = np.full((32, 32, 3), 255)
    expected[place[1] : place[1] + 10, place[0] : place[0] + 16] = (255, 0, 0)
    assert (CODEC.decode(bytes(file)) == expected).all()


@pytest.mark.parametrize("place", [(0, 0), (8, 12)])
@pytest.mark.parametrize("transparency", [None, 1])
def test_what_the_first_frame_of_a_gif_leaves_of_the_canvas_is_white(
    place: tuple[int, int], transparency: int | None
) -> None:
    frame = Image.new("P", (16, 10), 0)
    frame.putpalette([200, 0, 0, 0, 200, 0])
    options = {} if transparency is None else {"transparency": transparency}
    file = bytearray(image_file(frame, "GIF", **options))
    file[6:10] = struct.pack("<HH", 32, 32)
    at = file.index(b",\0\0\0\0")
    file[at + 1 : at + 5] = struct.pack("<HH", *place)
    expected = np.full((32, 32, 3), 255)
    expected[place[1] : place[1] + 10, place[0] : place[0] + 16] = (200, 0, 0)
    assert (CODEC.decode(bytes(file)) == expected).all()


@pytest.mark.parametrize(
    ("frame", "bits", "said"),
    [
        (0xC1, 12, "of 12 bits"),
        (0xC3, 8, "lossless"),
        (0xC7, 8, "lossless"),
        (0xCB, 8, "lossless"),
    ],
)
def test_a_jpeg_that_is_not_decoded_is_not_called_damaged(frame: int, bits: int, said: str) -> None:
    file = bytearray(image_file(pixels(), "JPEG"))
    at = file.index(b"\xff\xc0")
    file[at + 1], file[at + 4] = frame, bits
    with pytest.raises(UnsupportedImage, match=said):
        CODEC.decode(bytes(file))


def _bombs() -> dict[str, bytes]:
    jpeg = bytearray(image_file(pixels(), "JPEG"))
    frame = jpeg.index(b"\xff\xc0") + 5
    jpeg[frame : frame + 4] = struct.pack(">HH", 65_000, 65_000)
    gif = bytearray(image_file(pixels(), "GIF"))
    gif[6:10] = struct.pack("<HH", 65_000, 65_000)
    webp = b"RIFF\x1e\0\0\0WEBPVP8X\x0a\0\0\0" + b"\0" * 4 + b"\xff\x3f\0" * 2 + b"VP8L\0\0\0\0"
    frame_bomb = bytearray(image_file(pixels(), "GIF"))
    start = frame_bomb.index(b",\0\0\0\0")
    frame_bomb[start + 5 : start + 9] = struct.pack("<HH", 65_000, 65_000)
    return {
        "PNG": _png_that_claims(50_000, 50_000),
        "JPEG": bytes(jpeg),
        "GIF": bytes(gif),
        "GIF frame": bytes(frame_bomb),
        "WEBP": webp,
    }


@pytest.mark.parametrize(("name", "bomb"), _bombs().items(), ids=_bombs())
def test_bombs_are_stopped_before_they_are_decoded(name: str, bomb: bytes) -> None:
    with pytest.raises(ImageTooLarge, match=" 1000000"):
        CODEC.decode(bomb)


def test_a_small_file_of_many_pixels_is_not_quick() -> None:
    assert is_quick(image_file(pixels()))
    assert not is_quick(image_file(Image.new("1", (2000, 2000))))
    assert not is_quick(image_file(pixels(1, 200, 200)))


@given(st.sampled_from(KINDS), st.data())
def test_a_damaged_file_is_decoded_or_refused_but_never_crashes(
    kind: str, data: st.DataObject
) -> None:
    file = bytearray(image_file(pixels(1, 24, 24), kind))
    for _ in range(data.draw(st.integers(1, 4))):
        position = data.draw(st.integers(4, len(file) - 1))
        file[position] = data.draw(st.integers(0, 255))
    with suppress(ImageTooLarge, UnsupportedImage, UnreadableImage):
        assert CODEC.decode(bytes(file)).shape == (32, 32, 3)


@given(st.integers(0, 2**32 - 1))
def test_the_short_way_and_pillows_way_agree(seed: int) -> None:
    image = pixels(seed)
    data = image_file(image)
    short = images.decode(data, (32, 32))
    assert short is not None
    assert (short == image).all()


@pytest.mark.parametrize(
    "data",
    [
        image_file(pixels(0, 31, 32)),
        image_file(Image.fromarray(pixels()).convert("L")),
        image_file(Image.fromarray(pixels()), transparency=(0, 0, 0)),
        image_file(pixels()) + b"x",
        image_file(pixels())[:-1],
        image_file(pixels()).replace(b"IDAT", b"IDAU"),
        b"",
    ],
    ids=["size", "grey", "transparent", "trailing", "short", "chunk", "nothing"],
)
def test_the_short_way_leaves_what_is_not_plain(data: bytes) -> None:
    assert images.decode(data, (32, 32)) is None


FAMILY = list(pngs.family())


def test_the_family_of_small_pngs_has_all_that_the_specification_has() -> None:
    assert {(one.color, one.depth) for one in FAMILY} == {
        *((0, 1), (0, 2), (0, 4), (0, 8), (0, 16), (2, 8), (2, 16)),
        *((3, 1), (3, 2), (3, 4), (3, 8), (4, 8), (4, 16), (6, 8), (6, 16)),
    }
    plain = [one for one in FAMILY if not (one.note or one.is_transparent)]
    assert len({(*one[3:7],) for one in plain}) == len(plain) == 15 * 2 * 6
    notes = [one for one in FAMILY if one.note]
    assert len({one.note for one in notes}) == 16
    assert len(notes) == 15 * 16 - 11, "hIST stands beside a palette alone"
    transparent = [one for one in FAMILY if one.is_transparent]
    assert len(transparent) == 11 * 2, "those without an alpha of their own"
    assert len({one.file for one in FAMILY}) == len(FAMILY) == 431


def test_every_kind_of_small_png_shows_what_its_specification_says() -> None:
    taken = set()
    for one in FAMILY:
        assert (CODEC.decode(one.file) == one.shown).all(), one.name
        short = images.decode(one.file, (32, 32))
        if short is not None:
            taken.add((one.color, one.depth, one.is_interlaced, one.is_transparent, one.note))
            assert (short == one.shown).all(), one.name
        if not one.is_transparent:  # else Pillow alone has other ideas of 16 bits
            with Image.open(io.BytesIO(one.file)) as opened:
                assert (np.asarray(_to_rgb(opened)) == one.shown).all(), one.name
    harmless = {"", "cHRM", "gAMA", "sRGB", "pHYs", "tIME", "tEXt", "sBIT", "bKGD"}
    assert taken == {(2, 8, False, False, note) for note in harmless}


@given(st.data())
def test_the_short_way_takes_no_file_that_is_damaged(data: st.DataObject) -> None:
    file = bytearray(image_file(pixels()))
    position = data.draw(st.integers(0, len(file) - 1))
    file[position] ^= data.draw(st.integers(1, 255))
    assert images.decode(bytes(file), (32, 32)) is None


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "P"])
def test_large_transparent_images_are_laid_on_white_as_small_ones_are(mode: str) -> None:
    chance = np.random.default_rng(0)
    image = Image.fromarray(chance.integers(0, 256, (700, 900, 4)).astype(np.uint8), "RGBA")
    if mode == "P":
        image = image.convert("RGB").quantize(256)
        image.info["transparency"] = bytes(range(256))
    else:
        image = image.convert(mode)
    white = Image.new("RGBA", image.size, "white")
    expected = Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    assert np.array_equal(np.asarray(_to_rgb(image)), np.asarray(expected))
