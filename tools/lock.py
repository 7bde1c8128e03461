"""Compiles each requirements_lock.txt from the requirements.in beside it: `bazel run //tools:lock`.

Also runs without Bazel (`python3 tools/lock.py`, with uv on PATH), in case the lock itself breaks
the build.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

REQUIREMENTS = "requirements.in"
LOCK = "requirements_lock.txt"
FOLDERS = (".", "serve/score", "tools/checks")  # each has both files
# The platform is explicit so that the lock does not depend on who compiles it. Extras are kept
# because torch requests parts of cuda-toolkit by extras, and installers of single wheels read them.
COMPILE = (
    "pip compile --generate-hashes --no-strip-extras --python-version 3.11"
    " --python-platform x86_64-manylinux_2_34 --no-annotate --no-header --quiet"
)

_DIGEST = re.compile(r"^# requirements\.in: sha256:([0-9a-f]{64})$", re.MULTILINE)
_PIN = re.compile(r"^(?P<name>[A-Za-z0-9._-]+)(?:\[(?P<extras>[^]]*)\])?==(?P<version>[^\s;]+)")


class LockFailed(Exception):
    """No lock was written; the message says why."""


@dataclass(frozen=True)
class Pin:
    name: str
    version: str
    extras: frozenset[str]
    hashed: bool


def main(argv: Sequence[str]) -> int:
    options = _parse(argv)
    workspace = Path(os.environ.get("BUILD_WORKSPACE_DIRECTORY") or Path(__file__).parent.parent)
    try:
        if options.check:
            return _check(workspace)
        for folder in FOLDERS:
            compile_lock(workspace / folder, _find_uv(), _upgrades(options))
            print(f"lock: wrote {workspace / folder / LOCK}")
    except (LockFailed, FileNotFoundError) as exc:
        print(f"lock: {exc}", file=sys.stderr)
        return 1
    return 0


def compile_lock(folder: Path, uv: Path, upgrades: Sequence[str] = ()) -> None:
    """Replaces the lock atomically. Pins that still satisfy the requirements stay unless upgraded.

    Raises:
        LockFailed: uv found no solution, or could not run.
    """
    lock, aside = folder / LOCK, folder / f"{LOCK}.new"
    try:
        if lock.exists():
            shutil.copyfile(lock, aside)  # uv keeps versions from an existing output file
        command = [str(uv), *COMPILE.split(), *upgrades, REQUIREMENTS, "--output-file", aside.name]
        if subprocess.run(command, cwd=folder, check=False).returncode != 0:
            raise LockFailed(f"uv could not resolve {REQUIREMENTS}; {LOCK} is as it was")
        header = _header((folder / REQUIREMENTS).read_text(encoding="utf-8"))
        aside.write_text(header + aside.read_text(encoding="utf-8"), encoding="utf-8")
        os.replace(aside, lock)
    finally:
        aside.unlink(missing_ok=True)


def disagreements(requirements: str, lock: str) -> list[str]:
    """Differences between the lock and the requirements; empty if they agree."""
    from packaging.utils import canonicalize_name

    found = []
    stamp = _DIGEST.search(lock)
    if stamp is None or stamp[1] != digest(requirements):
        found.append(f"{REQUIREMENTS} changed after {LOCK} was compiled")
    pins: dict[str, Pin] = {canonicalize_name(pin.name): pin for pin in read_pins(lock)}
    for line in meaningful_lines(requirements):
        if not line.startswith("-"):  # -c, which uv has followed
            found += _unsatisfied(line, pins)
    return found + [f"{pin.name} has no sha256 hash" for pin in pins.values() if not pin.hashed]


def digest(requirements: str) -> str:
    """Changes with the requirements, but not with comments, order or whitespace."""
    return hashlib.sha256("\n".join(sorted(meaningful_lines(requirements))).encode()).hexdigest()


def meaningful_lines(requirements: str) -> list[str]:
    bare = (re.sub(r"(^|\s)#.*", "", line) for line in requirements.splitlines())
    return [re.sub(r"\s+", "", line) for line in bare if line.strip()]


def read_pins(lock: str) -> Iterator[Pin]:
    for entry in re.sub(r"\\\n\s*", " ", lock).splitlines():
        if match := _PIN.match(entry):
            extras = frozenset((match["extras"] or "").replace(" ", "").split(","))
            yield Pin(match["name"], match["version"], extras, "--hash=sha256:" in entry)


def _unsatisfied(line: str, pins: dict[str, Pin]) -> list[str]:
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    requirement = Requirement(line)
    pin = pins.get(canonicalize_name(requirement.name))
    if pin is None:
        return [f"{requirement.name} is not pinned"]
    found = []
    if not requirement.specifier.contains(pin.version, prereleases=True):
        found.append(f"{pin.name} is pinned at {pin.version}, required is {requirement.specifier}")
    if missing := sorted(requirement.extras - pin.extras):
        found.append(f"{pin.name} is pinned without its extras {', '.join(missing)}")
    return found


def _header(requirements: str) -> str:
    return (
        f"# Generated from {REQUIREMENTS}, not to be edited: bazel run //tools:lock\n"
        f"# uv {COMPILE}\n"
        f"# requirements.in: sha256:{digest(requirements)}\n"
    )


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bazel run //tools:lock --", description=__doc__)
    parser.add_argument("--check", action="store_true", help="only check whether they agree")
    parser.add_argument("--upgrade", action="store_true", help="upgrade all packages")
    parser.add_argument("--upgrade-package", action="append", default=[], metavar="NAME")
    return parser.parse_args(argv)


def _upgrades(options: argparse.Namespace) -> list[str]:
    chosen = [f"--upgrade-package={name}" for name in options.upgrade_package]
    return [*(["--upgrade"] if options.upgrade else []), *chosen]


def _find_uv() -> Path:
    try:
        from common.programs import wheel_program
    except ImportError:  # when run as a file, without Bazel
        found = shutil.which("uv")
        if found is None:
            raise LockFailed("uv is not on PATH; install it: pip install uv") from None
        return Path(found)
    return wheel_program("uv")


def _check(workspace: Path) -> int:
    found = []
    for folder in FOLDERS:
        texts = [(workspace / folder / n).read_text(encoding="utf-8") for n in (REQUIREMENTS, LOCK)]
        found += [f"{folder}/: {sentence}" for sentence in disagreements(*texts)]
    for sentence in found:
        print(f"lock: {sentence}")
    print("lock: run bazel run //tools:lock" if found else "lock: the locks are up to date")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
