"""Finds the native program that a wheel carries (`ruff`, `uv`), wherever the wheel was unpacked."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import shutil
import sysconfig
from collections.abc import Iterator
from pathlib import Path


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
    """Where the wheel was unpacked; some hold a program and no package to import."""
    spec = importlib.util.find_spec(package)
    if spec and spec.origin:
        return Path(spec.origin).parent.parent
    try:
        return Path(str(importlib.metadata.distribution(package).locate_file("")))
    except importlib.metadata.PackageNotFoundError:
        return None
