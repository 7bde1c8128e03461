"""Verifies a registry's objects and removes leftovers of killed writers."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from ml.registry.registry import MODELS, PREFIX, Registry
from ml.registry.store import Damaged, RegistryError, Stored

GRACE_S = 24 * 3600  # no registration takes longer


@dataclass(frozen=True)
class Inspection:
    """What a check of a whole registry found."""

    versions: int
    records: int
    images: int
    problems: tuple[str, ...]
    leftovers: tuple[Stored, ...]  # unreferenced: no harm, only space


def inspect(registry: Registry, progress: Callable[[str], None] = lambda _: None) -> Inspection:
    """Reads every object: digests, graph and weights of models, the ledger's chain, all links."""
    problems = registry.ledger.problems()
    versions = registry.versions.names()
    progress(f"reading {len(versions)} versions")
    for version in versions:
        try:
            registry.versions.model(version)
        except Damaged as exc:
            problems.append(str(exc))
    known, images = set(versions), set(registry.images.digests())
    records = 0
    try:
        history = registry.history()
        records = len(history)
        targets = {(r.number, t) for r in history for t in (r.source, r.move.target) if t}
        problems += [
            f"record {number} names {target}, which is not registered"
            for number, target in sorted(targets)
            if target not in known and not target.startswith(PREFIX)
        ]
    except Damaged:
        pass  # among the ledger's problems already
    for digest in sorted(images):
        try:
            if (version := registry.images.find(digest).version) not in known:
                problems.append(f"image {digest} holds {version}, which is not registered")
        except (Damaged, RegistryError) as exc:
            problems.append(str(exc))
    try:
        found = tuple(leftovers(registry))
    except Damaged:
        found = ()  # nobody knows which bytes that manifest names
    return Inspection(len(versions), records, len(images), tuple(problems), found)


def leftovers(registry: Registry) -> list[Stored]:
    """Bytes that no manifest names, and files that were being written.

    Registrations at work are among them. Models are listed first: one that is committed meanwhile
    counts as named.
    """
    candidates = registry.store.entries(MODELS)
    named = {registry.versions.manifest(version).file.key for version in registry.versions.names()}
    unnamed = [stored for stored in candidates if stored.key not in named]
    return [*registry.store.unfinished(), *unnamed]


def collect(registry: Registry, grace_s: float = GRACE_S, *, dry_run: bool = False) -> list[Stored]:
    """Removes leftovers that are older than a registration can be; returns them.

    Raises:
        Damaged: a manifest cannot be read, so that nobody knows which bytes it names.
    """
    oldest = time.time() - grace_s
    removed = [stored for stored in leftovers(registry) if stored.modified < oldest]
    for stored in removed:
        if not dry_run:
            registry.store.delete(stored.key)
    return removed
