"""Package files by the SHA-256 of their bytes: fetched once per machine, never trusted unchecked."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from pathlib import Path

from tools.provision.apt import Deb
from tools.provision.cache import ProvisionError, lock, scratch
from tools.provision.progress import Progress

CONNECTIONS = 8
POLL_S = 0.2

Download = Callable[[Deb, Path], None]


class Pool:
    """A folder of package files named by their hash."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def path(self, deb: Deb) -> Path:
        return self._folder / deb.sha256[:2] / f"{deb.sha256}.deb"

    def ensure(self, debs: Sequence[Deb], download: Download, title: str) -> None:
        """Bring every one of ``debs`` here; what is here already is checked and kept."""
        with lock(self._folder / ".lock", "a download of packages"):
            missing = [deb for deb in debs if not self._is_here(deb)]
            if missing:
                with scratch(self._folder / "incoming") as folder:
                    self._fetch(missing, download, folder, title)

    def _fetch(self, debs: Sequence[Deb], download: Download, folder: Path, title: str) -> None:
        progress = Progress(title, sum(deb.size for deb in debs))
        biggest_first = sorted(debs, key=lambda deb: -deb.size)
        executor = ThreadPoolExecutor(CONNECTIONS)
        try:
            pending = {executor.submit(self._take, deb, download, folder) for deb in biggest_first}
            arrived = 0
            while pending:
                done, pending = wait(pending, POLL_S, FIRST_COMPLETED)
                arrived += sum(future.result().size for future in done)
                progress.show(arrived + _bytes_below(folder))
        finally:
            executor.shutdown(cancel_futures=True)
        progress.finish()

    def _take(self, deb: Deb, download: Download, folder: Path) -> Deb:
        arriving = folder / f"{deb.sha256}.deb"
        try:
            download(deb, arriving)
        except ProvisionError as error:
            raise ProvisionError(f"could not fetch {deb.package} {deb.version}: {error}") from error
        self._put(deb, arriving)
        return deb

    def _put(self, deb: Deb, arriving: Path) -> None:
        found = _sha256_of(arriving)
        if found != deb.sha256:
            raise ProvisionError(
                f"{deb.package} {deb.version}: expected SHA-256 {deb.sha256}, found {found}"
            )
        place = self.path(deb)
        place.parent.mkdir(parents=True, exist_ok=True)
        os.replace(arriving, place)

    def _is_here(self, deb: Deb) -> bool:
        place = self.path(deb)
        return place.is_file() and _sha256_of(place) == deb.sha256


def _sha256_of(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _bytes_below(folder: Path) -> int:
    """What has arrived of the files still under way; each may be renamed away at any moment."""
    total = 0
    for entry in os.scandir(folder):
        with suppress(FileNotFoundError):
            total += entry.stat().st_size
    return total
