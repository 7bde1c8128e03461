from __future__ import annotations

import io
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ml.data.cifar10_sprite import SpriteError, decode_sprite, encode_records
from tests.ml.data.tiny_dataset import encode_png, png_chunk


def sprite(filters: list[int], seed: int = 0, width: int = 1024) -> bytes:
    source = random.Random(seed)
    return encode_png([source.randbytes(3 * width) for _ in filters], filters, width)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32), filters=st.lists(st.integers(0, 4), min_size=1, max_size=5))
def test_any_mix_of_filters_decodes_as_pillow_decodes_it(seed: int, filters: list[int]) -> None:
    png = sprite(filters, seed)
    with Image.open(io.BytesIO(png)) as image:
        expected = np.asarray(image).transpose(0, 2, 1).reshape(len(filters), 3072)
    decoded = np.frombuffer(b"".join(decode_sprite(png)), dtype=np.uint8)
    np.testing.assert_array_equal(decoded.reshape(len(filters), 3072), expected)


def test_flat_images_decode_too() -> None:
    flat = [bytes(3072), b"\xff" * 3072, b"\x07" * 3072]
    assert decode_sprite(encode_png(flat, [4, 3, 1])) == flat


def test_pixels_may_be_spread_over_many_chunks() -> None:
    png = sprite([1, 4])
    start, end = png.index(b"IDAT"), png.index(b"IEND") - 8
    body = png[start + 4 : end]
    parts = b"".join(png_chunk(b"IDAT", body[at : at + 100]) for at in range(0, len(body), 100))
    split = png[: start - 4] + parts + png[end + 4 :]
    assert decode_sprite(split) == decode_sprite(png)


def test_something_else_than_a_png_is_refused() -> None:
    with pytest.raises(SpriteError, match="not a PNG"):
        decode_sprite(b"GIF89a")


@given(keep=st.floats(0, 1, exclude_max=True))
@settings(max_examples=25, deadline=None)
def test_a_truncated_sprite_is_refused_wherever_it_ends(keep: float) -> None:
    png = sprite([1])
    with pytest.raises(SpriteError):
        decode_sprite(png[: int(keep * len(png))])


def test_a_flipped_bit_is_noticed_by_the_checksum() -> None:
    png = bytearray(sprite([1]))
    png[len(png) // 2] ^= 1
    with pytest.raises(SpriteError, match="wrong checksum at byte"):
        decode_sprite(bytes(png))


def test_a_sprite_of_another_width_is_refused() -> None:
    with pytest.raises(SpriteError, match="found 32 pixels"):
        decode_sprite(sprite([1], width=32))


def test_a_grey_png_is_refused() -> None:
    grey = io.BytesIO()
    Image.new("L", (1024, 1)).save(grey, format="PNG")
    with pytest.raises(SpriteError, match="expected a PNG of 1024 RGB8 pixels"):
        decode_sprite(grey.getvalue())


def test_more_pixels_than_the_header_says_are_refused() -> None:
    png = sprite([1, 1])
    one_row = png.replace(png[8:33], png_chunk(b"IHDR", png[16:20] + b"\0\0\0\1" + png[24:29]))
    with pytest.raises(SpriteError, match="expected 3073 bytes of pixels, found more"):
        decode_sprite(one_row)


def test_an_unknown_filter_is_named() -> None:
    with pytest.raises(SpriteError, match="unknown PNG filter 7"):
        decode_sprite(sprite([7]))


def test_a_record_is_its_label_and_then_its_image() -> None:
    images = [bytes([value]) * 3072 for value in (1, 2)]
    assert encode_records([6, 9], images) == b"\x06" + images[0] + b"\x09" + images[1]


@pytest.mark.parametrize(
    ("labels", "message"), [([6], "2 images but 1 labels"), ([6, 10], "label 10 is not")]
)
def test_labels_that_do_not_fit_are_refused(labels: list[int], message: str) -> None:
    with pytest.raises(SpriteError, match=message):
        encode_records(labels, [bytes(3072)] * 2)
