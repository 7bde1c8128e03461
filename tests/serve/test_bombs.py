"""Small requests that would become large: refused or answered, and never with much memory.

The memory that one request may take is bounded by KILN_MAX_PIXELS; here 4 million instead of 25.
"""

import base64
import gzip
import http.client
import io
import json
import os
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from tests.helpers.waiting import PATIENCE_S
from tests.serve.server_process import Server, running
from tests.serve.serving import image_file, pixels

MAX_PIXELS = 4_000_000
BYTES_PER_PIXEL = 20  # the file's own decoder, its pixels, and a copy in RGB
ALLOWED = MAX_PIXELS * BYTES_PER_PIXEL + 40 * 2**20  # and bodies of 6 MB in several forms
MEGABYTES = b"\0" * (64 * 2**20)


def chunk(name: bytes, data: bytes) -> bytes:
    checked = name + data
    return len(data).to_bytes(4) + checked + zlib.crc32(checked).to_bytes(4)


def png(width: int, height: int, *chunks: bytes, form: bytes = b"\x08\x02\0\0\0") -> bytes:
    header = chunk(b"IHDR", width.to_bytes(4) + height.to_bytes(4) + form)
    pixel_data = chunk(b"IDAT", zlib.compress(b"\0" * 4000))
    end = chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + pixel_data + end


def bmp(width: int, height: int) -> bytes:
    sizes = width.to_bytes(4, "little", signed=True) + height.to_bytes(4, "little", signed=True)
    info = (40).to_bytes(4, "little") + sizes + b"\x01\0\x18\0" + bytes(24)
    return b"BM" + (54).to_bytes(4, "little") + bytes(4) + (54).to_bytes(4, "little") + info


def gif(width: int, height: int) -> bytes:
    file = bytearray(image_file(Image.new("P", (8, 8)), "GIF"))
    file[6:10] = width.to_bytes(2, "little") + height.to_bytes(2, "little")
    return bytes(file)


def film(frames: int) -> bytes:
    """A GIF whose last frames are in nobody's interest."""
    images = [Image.new("P", (32, 32), n % 256) for n in range(frames)]
    return image_file(images[0], "GIF", save_all=True, append_images=images[1:], optimize=False)


def webp(width: int, height: int) -> bytes:
    canvas = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    extended = b"VP8X" + (10).to_bytes(4, "little") + bytes(4) + canvas
    plain = image_file(pixels(), "WEBP", lossless=True)[12:]
    return b"RIFF" + (4 + len(extended + plain)).to_bytes(4, "little") + b"WEBP" + extended + plain


def jpeg(width: int, height: int) -> bytes:
    file = image_file(pixels(), "JPEG")
    place = file.index(b"\xff\xc0") + 5
    return file[:place] + height.to_bytes(2) + width.to_bytes(2) + file[place + 4 :]


def many_scans() -> bytes:
    """A progressive JPEG whose last scan comes two thousand times."""
    file = image_file(pixels(), "JPEG", progressive=True)
    last = file.rindex(b"\xff\xda")
    return file[:-2] + file[last:-2] * 2000 + file[-2:]


def blank(mode: str, kind: str = "PNG") -> bytes:
    """As many pixels as are let in, in few bytes."""
    options = {"lossless": True, "method": 0} if kind == "WEBP" else {}
    return image_file(Image.new(mode, (2000, 2000)), kind, **options)


IMAGES: dict[str, tuple[bytes, set[int]]] = {
    "PNG, sides of 100,000": (png(100_000, 100_000), {413}),
    "PNG, sides of 2^31 - 1": (png(2**31 - 1, 2**31 - 1), {413}),
    "PNG, a line of 4 billion": (png(2**32 - 1, 1), {413}),
    "PNG, no height": (png(32, 0), {422}),
    "PNG, profile of 64 MB": (
        png(32, 32, chunk(b"iCCP", b"p\0\0" + zlib.compress(MEGABYTES))),
        {200, 422},
    ),
    "PNG, text of 64 MB": (
        png(32, 32, chunk(b"zTXt", b"t\0\0" + zlib.compress(MEGABYTES))),
        {200, 422},
    ),
    "PNG, 64 MB of pixels in 32 x 32": (
        png(32, 32, chunk(b"IDAT", zlib.compress(MEGABYTES))),
        {200, 422},
    ),
    "PNG, transparent": (blank("RGBA"), {200}),
    "PNG, 16 bits": (blank("I;16"), {200}),
    "PNG, palette": (blank("P"), {200}),
    "WebP, transparent": (blank("RGBA", "WEBP"), {200}),
    "GIF, a screen of 65,535": (gif(65_535, 65_535), {413}),
    "GIF, 500 frames": (film(500), {200}),
    "BMP, sides of 2^31 - 1": (bmp(2**31 - 1, 2**31 - 1), {413}),
    "BMP, from the top, 2^31": (bmp(32, -(2**31)), {413}),
    "BMP, a width below zero": (bmp(-100_000, 100_000), {413, 422}),
    "WebP, a canvas of 16,384": (webp(16_384, 16_384), {413}),
    "JPEG, sides of 65,535": (jpeg(65_535, 65_535), {413}),
    "PNG, a film without frames": (png(8, 8, chunk(b"acTL", bytes(8))), {200, 422}),
    "JPEG, two thousand scans": (many_scans(), {200, 422}),
}


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running(
        KILN_MAX_PIXELS=str(MAX_PIXELS), KILN_LOG_LEVEL="warning", KILN_DRIFT_RATE="0"
    ) as up:
        assert send(up, image_file(pixels(0, 300, 300)), "image/png")[0] == 200  # threads are there
        yield up
        up.process.terminate()
        _, said = up.process.communicate(timeout=PATIENCE_S)
        assert said == "", "no image writes to the log"


def send(server: Server, body: bytes, content_type: str, **headers: str) -> tuple[int, object]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE_S)
    connection.request("POST", "/predict", body, {"content-type": content_type, **headers})
    response = connection.getresponse()
    answer = json.loads(response.read())
    if response.status != 200:
        assert response.headers["content-type"] == "application/problem+json"
    connection.close()
    return response.status, answer


def peak(server: Server) -> int:
    """The most resident bytes that the server ever had."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def resident(server: Server) -> int:
    pages = Path(f"/proc/{server.process.pid}/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("name", IMAGES)
def test_image_bombs_are_refused_or_answered_in_little_memory(server: Server, name: str) -> None:
    data, expected = IMAGES[name]
    before = resident(server)
    assert send(server, data, "image/png")[0] in expected
    assert peak(server) - before < ALLOWED
    text = json.dumps({"image": base64.b64encode(data).decode()}).encode()
    assert send(server, text, "application/json")[0] in expected


@pytest.mark.parametrize(
    ("body", "content_type", "expected"),
    [
        (b'{"image":' + b"[" * 2_000_000, "application/json", {400, 422}),
        (b'{"image":' + b'{"a":' * 500_000, "application/json", {400, 422}),
        (b'{"image":"", "top_k":' + b"9" * 2_000_000 + b"}", "application/json", {400, 422}),
        (b'{"image":"", "top_k":1e999999999}', "application/json", {400, 422}),
        (b'{"image":"' + b"\\u0000" * 500_000 + b'"}', "application/json", {422}),
        (gzip.compress(MEGABYTES), "application/json", {413}),
        (b"--x\r\n\r\n\r\n" * 300_000 + b"--x--", "multipart/form-data; boundary=x", {400}),
        (
            b"--x\r\ncontent-type: multipart/mixed; boundary=y\r\n\r\n" * 50_000,
            "multipart/form-data; boundary=x",
            {400, 422},
        ),
        (b"--x\r\na: " + b"b" * 3_000_000, "multipart/form-data; boundary=x", {400}),
    ],
    ids=[
        "deep lists",
        "deep objects",
        "a number of two million digits",
        "a number beyond all",
        "a long string",
        "gzip",
        "many parts",
        "nested forms",
        "a long header",
    ],
)
def test_bombs_of_text_are_refused_in_little_memory(
    server: Server, body: bytes, content_type: str, expected: set[int]
) -> None:
    encoding = {"content-encoding": "gzip"} if body[:2] == b"\x1f\x8b" else {}
    before = resident(server)
    assert send(server, body, content_type, **encoding)[0] in expected
    assert peak(server) - before < ALLOWED


def test_the_corpus_is_small() -> None:
    assert max(len(data) for data, _ in IMAGES.values()) < 2**20
    assert io.BytesIO(IMAGES["PNG, transparent"][0]).getbuffer().nbytes < 100_000
