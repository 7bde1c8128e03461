"""common/images.py: every kind of image file reaches the model the
same way."""

import io
import struct
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from common import images
from common.images import (
    Codec,
    ImageTooLarge,
    UnreadableImage,
    UnsupportedImage,
    _to_rgb,
    image_size,
    image_type,
    is_quick,
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


@pytest.mark.parametrize("trailer", ["a line break", "one 0xFF", "one zero", "spaces", "text"])
@pytest.mark.parametrize("kind", KINDS)
def test_half_a_file_stays_damaged_whatever_follows(kind: str, trailer: str) -> None:
    file = image_file(pixels(), kind)
    with pytest.raises(UnreadableImage, match=f"the {kind} image is damaged or cut short"):
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


@pytest.mark.parametrize("kind", KINDS)
def test_half_a_file_is_called_damaged(kind: str) -> None:
    data = image_file(pixels(), kind)
    with pytest.raises(UnreadableImage, match=f"the {kind} image is damaged or cut short"):
        CODEC.decode(data[: len(data) // 2])


@pytest.mark.parametrize("data", [b"", b"text", b"%PDF-1.7", b"II*\0 a TIFF", b"<svg/>"])
def test_other_types_are_refused_by_their_first_bytes(data: bytes) -> None:
    with pytest.raises(UnsupportedImage, match="expected a PNG, JPEG, WebP, GIF or BMP image"):
        CODEC.decode(data)


def _png_that_claims(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(100_000))), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in chunks
    )


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
    with pytest.raises(ImageTooLarge, match="expected at most 1000000"):
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
