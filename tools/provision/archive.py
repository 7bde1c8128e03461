"""Debian's archive as this machine reaches it: which files a request means, and those files.

Files are kept by the SHA-256 of their bytes: fetched once per machine, always checked.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from tools.provision.apt import Deb, Mirror, PrivateApt
from tools.provision.cache import (
    NotOfferedError,
    Progress,
    ProvisionError,
    lock,
    scratch,
    write_whole,
)

INDEX_IS_FRESH_S = 3600.0
REFUSAL_IS_FRESH_S = 120.0  # many repositories of one build ask for the same suite


@dataclass(frozen=True)
class Request:
    """What is wanted: packages of a suite, alone or with what they depend on.

    ``without`` are shell patterns of package names to leave out of the closure.
    """

    suite: str
    packages: tuple[str, ...]
    closure: bool = False
    without: tuple[str, ...] = ()

    def digest(self) -> str:
        return hashlib.sha256(json.dumps(asdict(self)).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Resolution:
    """The files that answer a request, and the mirror that has them."""

    mirror: Mirror
    debs: tuple[Deb, ...]


class Archive:
    """Keeps everything below ``home``: indexes, answers to earlier requests, package files."""

    def __init__(self, home: Path, mirrors: Sequence[Mirror]) -> None:
        self._home = home
        self._mirrors = mirrors
        self._pool = Pool(home / "pool")

    def files(self, request: Request, title: str, refresh: bool = False) -> list[Path]:
        """The package files of ``request``, downloaded and checked.

        An answer is kept, so that another clone gets the same files and fetches nothing.
        ``refresh`` asks the mirror again, as does a file that the mirror no longer has.
        """
        known = None if refresh else self._recall(request)
        if known is not None:
            try:
                return self._fetch(known, title)
            except ProvisionError:
                refresh = True  # superseded on the mirror: its newest index names the successor
        return self._fetch(self.resolve(request, refresh), title)

    def locked_files(self, debs: Sequence[Deb], title: str) -> list[Path]:
        """Exactly the files of a lock, from the first mirror that still has them all."""
        refusals = []
        for mirror in self._mirrors:
            try:
                return self._fetch(Resolution(mirror, tuple(debs)), title)
            except ProvisionError as error:
                refusals.append(str(error))
        raise ProvisionError(
            "no mirror has all locked packages; `debian.py resolve` renews the lock:\n  "
            + "\n  ".join(refusals)
        )

    def resolve(self, request: Request, refresh: bool = False) -> Resolution:
        """Ask the first of the mirrors that carries the suite and all the packages.

        Raises:
            NotOfferedError: no mirror in reach does.
        """
        refusals = []
        for mirror in self._mirrors:
            try:
                resolution = Resolution(mirror, self._ask(mirror, request, refresh))
            except ProvisionError as error:
                refusals.append(f"{mirror.site}: {error}")
            else:
                self._remember(request, resolution)
                return resolution
        wanted = ", ".join(request.packages)
        raise NotOfferedError(
            f"no mirror offers {wanted} of Debian {request.suite}:\n  " + "\n  ".join(refusals)
        )

    def _ask(self, mirror: Mirror, request: Request, refresh: bool) -> tuple[Deb, ...]:
        apt = self._apt(mirror, request.suite)
        with lock(apt.home / "lock", f"reading the index of Debian {request.suite}"):
            apt.prepare()
            if refresh or _age_s(apt.home / "updated") > INDEX_IS_FRESH_S:
                _update(apt, refresh)
            found = (apt.closure if request.closure else apt.only)(request.packages)
        return tuple(deb for deb in found if not _matches(deb.package, request.without))

    def _apt(self, mirror: Mirror, suite: str) -> PrivateApt:
        digest = hashlib.sha256(repr(mirror).encode()).hexdigest()[:8]
        return PrivateApt(self._home / "apt" / f"{suite}-{digest}", mirror, suite)

    def _fetch(self, resolution: Resolution, title: str) -> list[Path]:
        apt = self._apt(resolution.mirror, "none")
        apt.prepare()
        self._pool.ensure(resolution.debs, apt.download, title)
        return [self._pool.path(deb) for deb in resolution.debs]

    def _answer(self, request: Request) -> Path:
        return self._home / "resolved" / f"{request.digest()}.json"

    def _recall(self, request: Request) -> Resolution | None:
        try:
            stored = json.loads(self._answer(request).read_text())
        except FileNotFoundError:
            return None
        mirror = next((m for m in self._mirrors if m.site == stored["site"]), None)
        if mirror is None:
            return None
        return Resolution(mirror, tuple(Deb(**fields) for fields in stored["debs"]))

    def _remember(self, request: Request, resolution: Resolution) -> None:
        stored = {
            "request": asdict(request),
            "site": resolution.mirror.site,
            "debs": [asdict(deb) for deb in resolution.debs],
        }
        write_whole(self._answer(request), json.dumps(stored, indent=1) + "\n")


def lock_text(request: Request, resolution: Resolution) -> str:
    """A lock that a repository can keep. It names no mirror: any that has the files will do."""
    debs = [asdict(deb) for deb in resolution.debs]
    return json.dumps({"request": asdict(request), "debs": debs}, indent=2) + "\n"


def locked_debs(path: Path) -> tuple[Deb, ...]:
    """The files that a lock names."""
    try:
        return tuple(Deb(**fields) for fields in json.loads(path.read_text())["debs"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ProvisionError(f"{path} is no lock of packages: {error}") from error


def _update(apt: PrivateApt, refresh: bool) -> None:
    """Renews the index; a mirror that has just refused is not asked again at once."""
    refused = apt.home / "refused"
    if not refresh and _age_s(refused) < REFUSAL_IS_FRESH_S:
        raise ProvisionError(refused.read_text())
    try:
        apt.update()
    except ProvisionError as error:
        write_whole(refused, str(error))
        raise
    (apt.home / "updated").touch()


def _age_s(path: Path) -> float:
    return time.time() - path.stat().st_mtime if path.exists() else math.inf


def _matches(package: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(package, pattern) for pattern in patterns)


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
