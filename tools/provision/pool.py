"""Package files by the SHA-256 of their bytes: fetched once per machine, always checked."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import suppress
from pathlib import Path

from tools.provision.apt import Deb
from tools.provision.cache import ProvisionError, lock, scratch
from tools.provision.progress import Progress

CONNECTIONS = 8
POLL_S = 0.2

BATCH_FILES = 24
BATCH_BYTES = 16_000_000

Download = Callable[[Sequence[tuple[Deb, Path]]], None]


class Pool:
    """A folder of package files named by their hash."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def path(self, deb: Deb) -> Path:
        return self._folder / deb.sha256[:2] / f"{deb.sha256}.deb"

    def ensure(self, debs: Sequence[Deb], download: Download, title: str) -> None:
        """Downloads each of ``debs``; a file that is here already is checked and kept."""
        with lock(self._folder / ".lock", "a download of packages"):
            missing = [deb for deb in debs if not self._is_here(deb)]
            if missing:
                with scratch(self._folder / "incoming") as folder:
                    self._fetch(missing, download, folder, title)

    def _fetch(self, debs: Sequence[Deb], download: Download, folder: Path, title: str) -> None:
        progress = Progress(title, sum(deb.size for deb in debs))
        executor = ThreadPoolExecutor(CONNECTIONS)
        try:
            batches = _batches(debs)
            pending = {executor.submit(self._take, batch, download, folder) for batch in batches}
            arrived = 0
            while pending:
                done, pending = wait(pending, POLL_S, FIRST_COMPLETED)
                arrived += sum(future.result() for future in done)
                progress.show(arrived + _bytes_below(folder))
        finally:
            executor.shutdown(cancel_futures=True)
        progress.finish()

    def _take(self, batch: Sequence[Deb], download: Download, folder: Path) -> int:
        """Fetches a batch and keeps each intact file, even if others are not; returns the bytes."""
        arriving = [(deb, folder / f"{deb.sha256}.deb") for deb in batch]
        reasons = []
        try:
            download(arriving)
        except ProvisionError as error:
            reasons.append(str(error))
        wrong = [deb for deb, path in arriving if not self._put(deb, path)]
        if wrong:
            names = ", ".join(f"{deb.package} {deb.version} ({deb.sha256})" for deb in wrong)
            raise ProvisionError(
                "\n".join([f"not to be had with the SHA-256 of the index: {names}", *reasons])
            )
        return sum(deb.size for deb in batch)

    def _put(self, deb: Deb, arriving: Path) -> bool:
        if not arriving.is_file() or _sha256_of(arriving) != deb.sha256:
            return False
        place = self.path(deb)
        place.parent.mkdir(parents=True, exist_ok=True)
        os.replace(arriving, place)
        return True

    def _is_here(self, deb: Deb) -> bool:
        place = self.path(deb)
        return place.is_file() and _sha256_of(place) == deb.sha256


def _batches(debs: Sequence[Deb]) -> list[list[Deb]]:
    """Small files together: a process and a look-up of the mirror's name each would take longer
    than their bytes do.
    """
    batches: list[list[Deb]] = []
    held_bytes = BATCH_BYTES
    for deb in sorted(debs, key=lambda deb: -deb.size):
        if held_bytes + deb.size > BATCH_BYTES or len(batches[-1]) == BATCH_FILES:
            batches.append([])
            held_bytes = 0
        batches[-1].append(deb)
        held_bytes += deb.size
    return batches


def _sha256_of(path: Path) -> str:
    digest = hashlib.sha256()  # hashlib.file_digest is Python 3.11's, this runs on 3.9
    with path.open("rb") as handle:
        while block := handle.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _bytes_below(folder: Path) -> int:
    """Bytes of the files that are still being fetched; any may be renamed away at any moment."""
    total = 0
    for entry in os.scandir(folder):
        with suppress(FileNotFoundError):
            total += entry.stat().st_size
    return total
