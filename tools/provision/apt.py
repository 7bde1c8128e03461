"""A private apt: the machine's mirror and proxies, our own state, nothing on the system touched."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from shutil import which
from urllib.parse import unquote

from tools.provision.cache import NotOfferedError, ProvisionError, say, write_whole

KEYRINGS = tuple(
    Path(f"/usr/share/keyrings/debian-archive-keyring.{suffix}") for suffix in ("gpg", "pgp")
)
NEEDED = ("apt-get", "apt-config", "dpkg-deb")
URI_LINE = re.compile(
    r"'(?P<uri>[^']+)' (?P<file>\S+) (?P<size>\d+) SHA256:(?P<sha256>[0-9a-f]{64})"
)


@dataclass(frozen=True)
class Mirror:
    """Where packages come from, and whose signature on the index counts."""

    site: str
    keyring: Path | None

    def uri(self, path: str) -> str:
        return f"{self.site}/{path}"


@dataclass(frozen=True, order=True)
class Deb:
    """A package file as the signed index describes it; ``path`` is relative to the mirror."""

    package: str
    version: str
    path: str
    size: int
    sha256: str


def require_apt() -> None:
    missing = [name for name in NEEDED if which(name) is None]
    if missing:
        raise NotOfferedError(f"no {', '.join(missing)} here: this needs a Debian-based system")


def machine_mirrors(keyring: Path | None = None) -> list[Mirror]:
    """The package sites that this machine's own apt configuration names, Debian's archive first."""
    listing = _run(["apt-get", "indextargets", "--no-release-info", "--format", "$(SITE)"])
    sites = sorted(set(listing.split()), key=lambda site: (_is_special(site), site))
    if not sites:
        raise NotOfferedError("apt has no package source here: add a Debian mirror to its sources")
    signer = keyring or next((path for path in KEYRINGS if path.exists()), None)
    return [Mirror(site.rstrip("/"), signer) for site in sites]


def _is_special(site: str) -> bool:
    return not site.rstrip("/").endswith("/debian")


class PrivateApt:
    """apt with its state below ``home``, reading one suite of one mirror."""

    def __init__(self, home: Path, mirror: Mirror, suite: str) -> None:
        self.mirror = mirror
        self.suite = suite
        self.home = home
        self._environment = {**os.environ, "APT_CONFIG": str(home / "apt.conf"), "LC_ALL": "C"}

    def prepare(self) -> None:
        """Write the configuration; needed before any other call."""
        (self.home / "lists" / "partial").mkdir(parents=True, exist_ok=True)
        (self.home / "cache" / "archives" / "partial").mkdir(parents=True, exist_ok=True)
        (self.home / "status").touch()
        signed_by = f"[signed-by={self.mirror.keyring}] " if self.mirror.keyring else ""
        sources = f"deb {signed_by}{self.mirror.site} {self.suite} main\n"
        write_whole(self.home / "sources.list", sources)
        configuration = _network_settings() + self._private_settings()
        # A proxy's address may carry a password.
        write_whole(self.home / "apt.conf", configuration, mode=0o600)

    def update(self) -> None:
        """Fetch the suite's index; apt refuses one that is unsigned or signed by a stranger."""
        say(f"reading the package index of Debian {self.suite} at {self.mirror.site}")
        self._apt(["apt-get", "update", "-qq", "-o", "APT::Update::Error-Mode=any"])

    def closure(self, packages: Sequence[str]) -> list[Deb]:
        """``packages`` and everything they depend on, as for an empty system."""
        request = ["install", "-y", "--no-install-recommends", *packages]
        return self._print_uris(request)

    def only(self, packages: Sequence[str]) -> list[Deb]:
        """``packages`` and nothing else."""
        return self._print_uris(["download", *packages])

    def download(self, files: Sequence[tuple[Deb, Path]]) -> None:
        """Fetch files to the given places through apt's own transports, which check the hashes."""
        wanted: list[str] = []
        for deb, place in files:
            wanted += [self.mirror.uri(deb.path), str(place), f"SHA256:{deb.sha256}"]
        self._apt([str(_helper()), "download-file", *wanted])

    def _print_uris(self, request: Sequence[str]) -> list[Deb]:
        options = ["-qq", "--print-uris", "-o", "Acquire::ForceHash=SHA256"]
        return self._parse(self._apt(["apt-get", *options, *request]).splitlines())

    def _parse(self, lines: Iterable[str]) -> list[Deb]:
        debs = []
        for line in lines:
            found = URI_LINE.match(line)
            if found is None:
                raise ProvisionError(f"apt answered without a SHA-256: {line!r}")
            package, version, _ = found["file"].split("_")
            path = found["uri"].removeprefix(self.mirror.site + "/")
            debs.append(Deb(package, unquote(version), path, int(found["size"]), found["sha256"]))
        return sorted(debs)

    def _apt(self, command: Sequence[str]) -> str:
        return _run(command, self._environment)

    def _private_settings(self) -> str:
        settings = {
            "Acquire::Languages": "none",
            "Acquire::PDiffs": "false",
            "Acquire::Retries": "3",
            "Acquire::http::Proxy::127.0.0.1": "DIRECT",
            "APT::Sandbox::User": "root",  # no change of user: everything here is the caller's
            "Dir::Etc::main": "/dev/null",
            "Dir::Etc::parts": "/dev/null",  # hooks of the system's apt must not run
            "Dir::Etc::sourcelist": str(self.home / "sources.list"),
            "Dir::Etc::sourceparts": "/dev/null",
            "Dir::Etc::preferences": "/dev/null",
            "Dir::Etc::preferencesparts": "/dev/null",
            "Dir::State": str(self.home),
            "Dir::State::lists": str(self.home / "lists"),
            "Dir::State::status": str(self.home / "status"),
            "Dir::Cache": str(self.home / "cache"),
            "Dir::Cache::pkgcache": "",  # a second saved is not worth 90 MB
            "Dir::Cache::srcpkgcache": "",
        }
        return "".join(f'{name} "{value}";\n' for name, value in settings.items())


def _network_settings() -> str:
    """The system's proxies, certificates and time-outs: without them no mirror may be in reach."""
    lines = _run(["apt-config", "dump"]).splitlines()
    kept = [line for line in lines if line.startswith("Acquire::") and "IndexTargets" not in line]
    return "\n".join(kept) + "\n"


@cache
def _helper() -> Path:
    methods = _run(["apt-config", "shell", "METHODS", "Dir::Bin::methods/f"])
    folder = methods.partition("=")[2].strip().strip("'") or "/usr/lib/apt/methods"
    return Path(folder).parent / "apt-helper"


def _run(command: Sequence[str], environment: dict[str, str] | None = None) -> str:
    done = subprocess.run(
        command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    if done.returncode:
        details = (done.stderr or done.stdout).strip()
        raise ProvisionError(f"{Path(command[0]).name} failed: {details}")
    return done.stdout
