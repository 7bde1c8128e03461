"""Debian's archive as this machine reaches it: which files a request means, and those files."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from tools.provision.apt import Deb, Mirror, PrivateApt
from tools.provision.cache import ProvisionError, lock
from tools.provision.pool import Pool

INDEX_IS_FRESH_S = 3600.0


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
    """Everything is kept below ``home``: indexes, answers to earlier requests, package files."""

    def __init__(self, home: Path, mirrors: Sequence[Mirror]) -> None:
        self._home = home
        self._mirrors = mirrors
        self._pool = Pool(home / "pool")

    def files(self, request: Request, title: str, refresh: bool = False) -> list[Path]:
        """The package files of ``request``, all of them here and checked.

        An answer once given stays, so that another clone gets the same files and fetches nothing;
        ``refresh`` asks the mirror anew, and so does a file that the mirror has no more.
        """
        known = None if refresh else self._recall(request)
        if known is not None:
            try:
                return self._fetch(known, title)
            except ProvisionError:
                pass  # superseded on the mirror: its current index names the successor
        return self._fetch(self.resolve(request), title)

    def resolve(self, request: Request) -> Resolution:
        """Ask the first of the mirrors that carries the suite and all the packages."""
        refusals = []
        for mirror in self._mirrors:
            try:
                resolution = Resolution(mirror, self._ask(mirror, request))
            except ProvisionError as error:
                refusals.append(f"{mirror.site}: {error}")
            else:
                self._remember(request, resolution)
                return resolution
        wanted = ", ".join(request.packages)
        raise ProvisionError(
            f"no mirror offers {wanted} of Debian {request.suite}:\n  " + "\n  ".join(refusals)
        )

    def _ask(self, mirror: Mirror, request: Request) -> tuple[Deb, ...]:
        apt = self._apt(mirror, request.suite)
        with lock(apt.home / "lock", f"reading the index of Debian {request.suite}"):
            updated = apt.home / "updated"
            if not updated.exists() or time.time() - updated.stat().st_mtime > INDEX_IS_FRESH_S:
                apt.prepare()
                apt.update()
                updated.touch()
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


def write_whole(path: Path, text: str) -> None:
    """The file appears with all of ``text`` or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.write_text(text)
    os.replace(aside, path)


def _matches(package: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(package, pattern) for pattern in patterns)
