"""Unpacked package files: a root folder that programs run from without being installed."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tools.provision.cache import ProvisionError


def unpack(packages: Sequence[Path], root: Path) -> None:
    """Unpack the files of every package below ``root``; no maintainer script runs."""
    with ThreadPoolExecutor(os.cpu_count()) as executor:
        list(executor.map(lambda package: _unpack_one(package, root), packages))


def _unpack_one(package: Path, root: Path) -> None:
    command = ["dpkg-deb", "--extract", str(package), str(root)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode:
        raise ProvisionError(f"cannot unpack {package}: {done.stderr.strip()}")


def make_links_relative(root: Path) -> None:
    """Absolute links that mean a file of the packages lead into ``root``, wherever it is moved.

    Links to what only the system has (``/dev/null``, ``/proc``) stay as they are.
    """
    for link in _links_below(root):
        target = os.readlink(link)
        inside = root / target.lstrip("/")
        if target.startswith("/") and os.path.lexists(inside):
            link.unlink()
            link.symlink_to(os.path.relpath(inside, link.parent))


def _links_below(root: Path) -> Iterator[Path]:
    for folder, subfolders, files in os.walk(root):
        for name in (*subfolders, *files):
            path = Path(folder, name)
            if path.is_symlink():
                yield path
