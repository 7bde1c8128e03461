"""Native programs; environment, ports and user of child processes; servers and threads that end
with a block; the files that git tracks.
"""

from __future__ import annotations

import getpass
import importlib.metadata
import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import sysconfig
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from http.server import HTTPServer


def wheel_program(name: str) -> Path:
    """The program `name` of the package `name`, or else the one on PATH.

    Raises:
        FileNotFoundError: neither exists.
    """
    on_path = shutil.which(name)
    candidates = [*_beside_package(name), *([Path(on_path)] if on_path else [])]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    places = ", ".join(map(str, candidates)) or "no installed package of that name"
    raise FileNotFoundError(f"Expected the program {name}; looked at {places}, and on PATH")


def _beside_package(package: str) -> Iterator[Path]:
    site_packages = _site_packages(package)
    if site_packages is None:
        return
    yield site_packages.parent / "bin" / package  # a wheel repository of Bazel
    yield site_packages / "bin" / package  # pip install --target
    yield Path(sysconfig.get_path("scripts")) / package  # an ordinary environment


def _site_packages(package: str) -> Path | None:
    """Where the wheel was unpacked; some hold only a program and no importable package."""
    spec = importlib.util.find_spec(package)
    if spec and spec.origin:
        return Path(spec.origin).parent.parent
    try:
        return Path(str(importlib.metadata.distribution(package).locate_file("")))
    except importlib.metadata.PackageNotFoundError:
        return None


# <runfiles>/_main/common/programs.py: the folder of all repositories, also outside tests.
_RUNFILES = Path(__file__).absolute().parents[2]


class ProgramMissing(Exception):
    """A program is not available; the message says how to install it."""


def find_program(name: str, runfiles: Path = _RUNFILES) -> Path:
    """The program ``name`` of a repository ``@debian_…``, or on PATH if none is given.

    Raises:
        ProgramMissing: neither exists.
    """
    for path in sorted(runfiles.glob(f"*debian_*/root/usr/bin/{name}")):
        return path
    notes = sorted(runfiles.glob(f"*debian_*/missing/{name}"))
    on_path = None if notes else shutil.which(name)  # the repository rule has searched PATH
    if on_path:
        return Path(on_path)
    text = notes[0].read_text(encoding="utf-8") if notes else name
    package, _, why_not = text.strip().partition("\n")
    raise ProgramMissing(
        f"{name} is not installed, and it cannot be unpacked for this build"
        f"{': ' + why_not if why_not else ''}. Install it so that it is on PATH"
        f" (Debian: apt-get install {package})"
    )


def require_program(name: str) -> Path:
    """For tests: :func:`find_program`, but a missing program skips the test visibly."""
    import pytest

    try:
        return find_program(name)
    except ProgramMissing as missing:
        pytest.skip(str(missing))


def tracked_files(*patterns: str) -> list[str]:
    """Files below the working folder that git tracks, or would track if they were added."""
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--"]
    found = subprocess.run([*listing, *patterns], check=True, capture_output=True, text=True)
    return [name for name in found.stdout.split("\0") if Path(name).is_file()]


def python_environment() -> dict[str, str]:
    """Environment in which a child process imports the same modules, also under Bazel."""
    path = os.pathsep.join(entry for entry in sys.path if entry)
    return os.environ | {"PYTHONPATH": path, "PYTHONSAFEPATH": "1"}


def free_port() -> int:
    """A TCP port that is free on the loopback interface."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


@contextmanager
def serving(server: HTTPServer) -> Iterator[str]:
    """Serves in a thread during the block; yields the URL on the loopback interface."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def in_threads(*works: Callable[[threading.Event], object]) -> Iterator[None]:
    """Runs each in a thread of its own during the block; then the event is set, and they end."""
    ending = threading.Event()
    threads = [threading.Thread(target=work, args=(ending,)) for work in works]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        ending.set()
        for thread in threads:
            thread.join()


def this_user() -> str:
    """KILN_ACTOR, GITHUB_ACTOR, or the login name."""
    if named := os.environ.get("KILN_ACTOR") or os.environ.get("GITHUB_ACTOR"):
        return named
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # a container's user may have no name
        user = f"uid {os.getuid()}"
    return f"{user}@{socket.gethostname()}"
