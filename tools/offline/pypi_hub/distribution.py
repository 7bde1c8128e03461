"""The distributions of a hashed lock: their pins, and what each consists of and needs.

The latter is read from the metadata of the installed distribution.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

_PIN = re.compile(
    r"^(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)(?:\[(?P<extras>[^]]*)\])?==(?P<version>[^\s;]+)"
)
_HASH = re.compile(r"--hash=(\w+:[0-9a-f]+)")


class LockError(Exception):
    """The lock cannot be used; the message says which line and why."""


@dataclass(frozen=True)
class Pin:
    """One distribution of the lock. ``name`` is normalised as labels are: ``typing_extensions``."""

    name: str
    version: str
    extras: frozenset[str]
    marker: str
    hashes: tuple[str, ...]
    text: str


def normalise(name: str) -> str:
    """The form that labels use: lower case, runs of ``-``, ``_`` and ``.`` as one underscore."""
    return re.sub(r"[-_.]+", "_", name).lower()


def parse_lock(text: str) -> list[Pin]:
    """All pins of a requirements file with hashes, in the file's order.

    Raises:
        LockError: a line is no exact pin, a pin has no hash, or a name appears twice.
    """
    pins: dict[str, Pin] = {}
    for line in _logical_lines(text):
        pin = _parse_pin(line)
        if pin.name in pins:
            raise LockError(f"{pin.name} is pinned twice; compile the lock for one Python version")
        pins[pin.name] = pin
    return list(pins.values())


def read_lock(path: Path) -> list[Pin]:
    return parse_lock(path.read_text(encoding="utf-8"))


def _logical_lines(text: str) -> list[str]:
    joined = re.sub(r"\\\n\s*", " ", text)
    lines = (re.sub(r"(^|\s)#.*$", "", line).strip() for line in joined.splitlines())
    return [line for line in lines if line]


def _parse_pin(line: str) -> Pin:
    match = _PIN.match(line)
    if match is None:
        raise LockError(f"expected `name==version --hash=…`, got {line[:80]!r}")
    hashes = tuple(_HASH.findall(line))
    if not hashes:
        raise LockError(f"{match['name']} has no --hash; compile the lock with --generate-hashes")
    requirement, _, _ = line.partition("--hash=")
    _, _, marker = requirement.partition(";")
    extras = frozenset(
        normalise(extra.strip()) for extra in (match["extras"] or "").split(",") if extra.strip()
    )
    return Pin(normalise(match["name"]), match["version"], extras, marker.strip(), hashes, line)


# Distributions whose `include` folder is read at run time: Triton compiles its launcher with it.
_NEEDS_ITS_HEADERS = frozenset({"triton"})
# ... or by those who follow the symbolic link of a source: torch.compile builds kernels with it.
_HAS_HEADERS_ON_DISK = frozenset({"torch"})
_ADDED_BY_THE_INSTALLER = tuple(
    f".dist-info/{name}"
    for name in (
        "RECORD",
        "INSTALLER",
        "REQUESTED",
        "direct_url.json",
        "uv_cache.json",
        "uv_build.json",
    )
)


class HubError(Exception):
    """The hub cannot be made; the message says which distribution and what to do."""


@dataclass(frozen=True)
class Distribution:
    """Files are relative to the installation; programs are the non-Python files of its ``bin``.

    Headers stay on the disk beside the sources and belong to no target. The digest stands for the
    content of all files where a program reads them from the disk.
    """

    name: str
    sources: tuple[str, ...]
    data: tuple[str, ...]
    metadata: tuple[str, ...]
    programs: tuple[str, ...]
    headers: tuple[str, ...]
    requires: frozenset[str]
    digest: str = ""

    @property
    def files(self) -> tuple[str, ...]:
        return (*self.sources, *self.data, *self.programs)


# Given a requirement and the extras in force: does it apply, to which project, with which extras?
Evaluate = Callable[[str, Iterable[str]], tuple[bool, str, frozenset[str]]]


def evaluator(site_packages: Path) -> Evaluate:
    """Markers are judged by the ``packaging`` that the lock itself installed."""
    sys.path.insert(0, str(site_packages))
    try:
        from packaging.requirements import Requirement
    except ImportError as exc:
        raise HubError("the lock holds no `packaging`; add it to requirements.in") from exc
    finally:
        sys.path.remove(str(site_packages))

    def evaluate(text: str, extras: Iterable[str]) -> tuple[bool, str, frozenset[str]]:
        requirement = Requirement(text)
        marker = requirement.marker
        applies = marker is None or any(
            marker.evaluate({"extra": extra}) for extra in ("", *extras)
        )
        return applies, normalise(requirement.name), frozenset(map(normalise, requirement.extras))

    return evaluate


def read_distributions(
    site_packages: Path, pins: Iterable[Pin], evaluate: Evaluate
) -> dict[str, Distribution]:
    """Every pin that applies to this interpreter, by name.

    Raises:
        HubError: a pin is not installed, or something installed requires what the lock lacks.
    """
    wanted = {pin.name: pin for pin in pins if evaluate(_requirement(pin), ())[0]}
    found = {
        normalise(found.metadata["Name"]): found
        for found in importlib.metadata.distributions(path=[str(site_packages)])
    }
    if missing := sorted(wanted.keys() - found.keys()):
        raise HubError(f"the lock names {', '.join(missing)}, but the installation lacks it")
    return {name: _read(found[name], pin, wanted, evaluate) for name, pin in sorted(wanted.items())}


def _requirement(pin: Pin) -> str:
    return f"{pin.name}; {pin.marker}" if pin.marker else pin.name


def _read(
    found: importlib.metadata.Distribution, pin: Pin, lock: Mapping[str, Pin], evaluate: Evaluate
) -> Distribution:
    requires = required(found.requires or [], pin, evaluate)
    if unpinned := sorted(requires - lock.keys()):
        raise HubError(
            f"{pin.name} requires {', '.join(unpinned)}, which the lock lacks;"
            " run: bazel run //tools:lock"
        )
    everything = sorted(map(str, found.files or ()))
    files = [path for path in everything if is_kept(pin.name, path)]
    modules = [path for path in files if not path.startswith("bin/")]
    scripts = {entry.name for entry in found.entry_points if entry.group.endswith("_scripts")}
    return Distribution(
        name=pin.name,
        sources=tuple(f for f in modules if f.endswith(".py")),
        data=tuple(f for f in modules if not f.endswith((".py", ".pyc"))),
        metadata=tuple(f for f in files if PurePosixPath(f).parts[0].endswith(".dist-info")),
        programs=tuple(
            f for f in files if f.startswith("bin/") and f.removeprefix("bin/") not in scripts
        ),
        headers=tuple(path for path in everything if is_header_on_disk(pin.name, path)),
        requires=requires,
        digest=_digest(found, {path for path in modules if not path.endswith(".pyc")}),
    )


def _digest(found: importlib.metadata.Distribution, kept: Iterable[str]) -> str:
    """SHA-256 in hex of paths and contents, by the hashes that the installer recorded.

    Without what the installer adds: times, and in RECORD the hashes of scripts, whose first line is
    this machine's path of Python.
    """
    recorded = {str(path): path.hash for path in found.files or ()}
    digest = hashlib.sha256()
    for path in sorted(kept):
        if path.endswith(_ADDED_BY_THE_INSTALLER):
            continue
        known = recorded[path]
        content = known.value if known else Path(str(found.locate_file(path))).read_bytes().hex()
        digest.update(f"{path} {content}\n".encode())
    return digest.hexdigest()


def required(requirements: Iterable[str], pin: Pin, evaluate: Evaluate) -> frozenset[str]:
    """Names that ``pin`` needs with its extras; an extra may name further extras of its project."""
    requirements, extras = list(requirements), set(pin.extras)
    while True:
        applying = [evaluate(text, extras) for text in requirements]
        own = {extra for ok, name, asked in applying if ok and name == pin.name for extra in asked}
        if own <= extras:
            return frozenset(name for ok, name, _ in applying if ok and name != pin.name)
        extras |= own


def is_kept(distribution: str, path: str) -> bool:
    """Whether a program can need the file.

    C++ headers, static libraries and bundled tests are 12,000 files that a sandbox would link for
    every test of torch.
    """
    parts = PurePosixPath(path).parts
    if parts[0] in ("..", "share"):  # manual pages
        return False
    if (
        path.endswith((".a", ".cmake"))
        or "tests" in parts[:-1]
        or parts[:3] == ("onnx", "backend", "test")
    ):
        return False
    return "include" not in parts[:-1] or distribution in _NEEDS_ITS_HEADERS


def is_header_on_disk(distribution: str, path: str) -> bool:
    return distribution in _HAS_HEADERS_ON_DISK and "include" in PurePosixPath(path).parts[:-1]
