"""Find a program that a target has as `data`: of a Debian package, else of PATH."""

from __future__ import annotations

import shutil
from pathlib import Path

# <runfiles>/_main/tools/debian/program.py: the folder of all repositories, also outside of tests.
_RUNFILES = Path(__file__).absolute().parents[3]


class ProgramMissing(Exception):
    """The machine cannot give the program; the message says how to install it."""


def find_program(name: str, runfiles: Path = _RUNFILES) -> Path:
    """The program ``name`` of a repository ``@debian_…``; without a repository, of PATH.

    Raises:
        ProgramMissing: neither exists.
    """
    for path in sorted(runfiles.glob(f"*debian_*/root/usr/bin/{name}")):
        return path
    notes = sorted(runfiles.glob(f"*debian_*/missing/{name}"))
    on_path = None if notes else shutil.which(name)  # the repository has looked there
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
    """For tests: as :func:`find_program`, but a program that is missing skips the test visibly."""
    import pytest

    try:
        return find_program(name)
    except ProgramMissing as missing:
        pytest.skip(str(missing))
