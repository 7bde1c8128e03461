"""Read the hashed lock: which distributions, with which extras, at which version."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

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
