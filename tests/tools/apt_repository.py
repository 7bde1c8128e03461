"""A small signed Debian archive, made of real packages and served on this machine."""

from __future__ import annotations

import functools
import gzip
import hashlib
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from shutil import rmtree, which
from tempfile import mkdtemp

from common.programs import serving

SUITE = "small"
NEEDED = ("apt-get", "dpkg-deb", "gpg")
MISSING = [name for name in NEEDED if which(name) is None]
WHY_SKIPPED = f"needs {', '.join(MISSING)}: apt-get install apt dpkg gpg (Debian or Ubuntu)"


@dataclass
class Signer:
    """A key pair of its own GnuPG home; ``keyring`` is its public half."""

    home: Path
    keyring: Path

    def sign(self, source: Path, target: Path) -> None:
        _gpg(self.home, "--yes", "--clearsign", "--output", str(target), str(source))


@contextmanager
def signer() -> Iterator[Signer]:
    home = Path(mkdtemp(prefix="gpg", dir="/tmp"))  # the agent's socket needs a short path
    try:
        _gpg(home, "--quick-generate-key", "archive@example.org", "ed25519", "sign", "never")
        keyring = home / "archive.gpg"
        _gpg(home, "--output", str(keyring), "--export")
        yield Signer(home, keyring)
    finally:
        subprocess.run(["gpgconf", "--homedir", str(home), "--kill", "all"], check=False)
        rmtree(home, ignore_errors=True)


def _gpg(home: Path, *arguments: str) -> None:
    options = ["--homedir", str(home), "--batch", "--quiet", "--passphrase", ""]
    subprocess.run(["gpg", *options, "--pinentry-mode", "loopback", *arguments], check=True)


@dataclass
class AptRepository:
    """The archive's folder; :meth:`publish` signs what :meth:`add` has put there."""

    folder: Path
    suite: str = SUITE
    stanzas: list[str] = field(default_factory=list)

    def add(
        self,
        package: str,
        files: Mapping[str, str | bytes],
        depends: str = "",
        version: str = "1.0",
    ) -> Path:
        """Build a package of ``files`` with dpkg-deb."""
        tree = self.folder / "trees" / package
        for name, content in files.items():
            path = tree / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.encode() if isinstance(content, str) else content)
            path.chmod(0o755)
        control = (
            f"Package: {package}\nVersion: {version}\nArchitecture: all\n"
            f"Maintainer: A <a@example.org>\nDescription: small\n"
        ) + (f"Depends: {depends}\n" if depends else "")
        (tree / "DEBIAN").mkdir(parents=True, exist_ok=True)
        (tree / "DEBIAN" / "control").write_text(control)
        relative = f"pool/{package}_{version}_all.deb"
        deb = self.folder / relative
        deb.parent.mkdir(exist_ok=True)
        build = ["dpkg-deb", "--root-owner-group", "-Znone", "--build", str(tree), str(deb)]
        subprocess.run(build, check=True, capture_output=True)
        data = deb.read_bytes()
        self.stanzas.append(
            f"{control}Filename: {relative}\nSize: {len(data)}\n"
            f"SHA256: {hashlib.sha256(data).hexdigest()}\n"
        )
        return deb

    def publish(self, by: Signer) -> None:
        suite = self.folder / "dists" / self.suite
        architecture = subprocess.run(
            ["dpkg", "--print-architecture"], check=True, capture_output=True, text=True
        ).stdout.strip()
        index = suite / f"main/binary-{architecture}/Packages"
        index.parent.mkdir(parents=True, exist_ok=True)
        index.write_text("".join(f"{stanza}\n" for stanza in self.stanzas))
        packed = index.with_suffix(".gz")
        packed.write_bytes(gzip.compress(index.read_bytes(), mtime=0))
        (suite / "Release").write_text(
            f"Suite: {self.suite}\nCodename: {self.suite}\n"
            f"Architectures: {architecture}\nComponents: main\n"
            f"Date: Thu, 01 Jan 2026 00:00:00 UTC\nSHA256:\n"
            + "".join(_release_line(path, suite) for path in (index, packed))
        )
        by.sign(suite / "Release", suite / "InRelease")


def apt_config(folder: Path, sources: str) -> Path:
    """What APT_CONFIG names on a machine whose apt has these sources alone."""
    (folder / "sources.list").write_text(sources)
    (folder / "lists" / "partial").mkdir(parents=True)
    path = folder / "apt.conf"
    path.write_text(
        f'Dir::Etc::sourcelist "{folder}/sources.list";\nDir::Etc::sourceparts "/dev/null";\n'
        f'Dir::State::lists "{folder}/lists";\nAcquire::Retries "0";\n'
    )
    return path


@contextmanager
def ubuntu(folder: Path) -> Iterator[str]:
    """The lines of a sources.list: a signed archive that has other suites than Debian's."""
    with signer() as key:
        archive = AptRepository(folder / "ubuntu", suite="noble")
        archive.add("lantern-tools", {"usr/bin/lantern": "light\n"})
        archive.publish(key)
        with served(archive) as server:
            yield f"deb [signed-by={key.keyring}] {server.url} noble main\n"


def _release_line(path: Path, suite: Path) -> str:
    data = path.read_bytes()
    return f" {hashlib.sha256(data).hexdigest()} {len(data)} {path.relative_to(suite)}\n"


@dataclass
class Server:
    """Where the archive is served, and which paths were asked for.

    While ``gate`` is not set, package files are announced but not delivered.
    """

    url: str
    requested: list[str]
    gate: threading.Event

    def fetched_packages(self) -> list[str]:
        return sorted(path for path in self.requested if path.endswith(".deb"))


@contextmanager
def served(repository: AptRepository) -> Iterator[Server]:
    requested: list[str] = []
    gate = threading.Event()
    gate.set()

    class Handler(SimpleHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            requested.append(self.path)
            if self.path.endswith(".deb"):
                gate.wait(60)
            super().do_GET()

        def log_message(self, format: str, *args: object) -> None:
            pass

    handler = functools.partial(Handler, directory=str(repository.folder))
    with serving(ThreadingHTTPServer(("127.0.0.1", 0), handler)) as url:
        try:
            yield Server(url, requested, gate)
        finally:
            gate.set()
