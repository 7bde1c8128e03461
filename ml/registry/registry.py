"""The model registry: versions by content, aliases by a ledger, images by their model.

Every object is written once, and one creation commits each action: a manifest, a ledger record, a
link. A kill therefore leaves only unreferenced objects and nothing to repair.
"""

from __future__ import annotations

import json
import re
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from common.files import kept_place
from common.model.signature import PublicKey, SignatureError, verify
from common.objects import Conflict, Damaged, Store, Stored, StoreError
from common.programs import this_user
from common.stores import open_store
from ml.registry.ledger import Ledger, Move, Record, RegistryError, State, previous_target
from ml.registry.versions import (
    MODELS,
    PREFIX,
    Act,
    Image,
    Images,
    Lineage,
    Manifest,
    Signatures,
    Versions,
    Weights,
)

CHAMPION = "champion"
FORMAT = "format.json"
UNCHECKED = "unchecked"  # verdict of a move without gates
_FORMAT_NUMBER = 1
_ALIAS = re.compile(r"[a-z][a-z0-9._/-]{0,63}")
_HEX = re.compile(r"[0-9a-f]+")
_FEWEST_DIGITS = 4
GRACE_S = 24 * 3600  # upper limit of a registration's duration


class Registry:
    """Versions, aliases and their history in one store; safe for concurrent writers.

    Attributes:
        versions: manifests and model bytes.
        signatures: of the versions' files, by key.
        weights: what versions can be trained further from.
        images: versions in container images.
        ledger: every move of an alias.
    """

    def __init__(self, store: Store, who: str | None = None) -> None:
        """Acts as `who` (KILN_ACTOR, GITHUB_ACTOR, or the user name); StoreError if the store
        cannot be used.
        """
        self.store, self.who = store, who or this_user()
        self.versions, self.images, self.ledger = Versions(store), Images(store), Ledger(store)
        self.signatures, self.weights = Signatures(store), Weights(store)
        self._is_prepared = self._has_format()

    @classmethod
    def open(cls, url: str, who: str | None = None) -> Registry:
        """The registry at ``s3://bucket/prefix`` or in a folder; the first write creates it."""
        return cls(open_store(url), who)

    def register(
        self, data: bytes, lineage: Lineage | None = None, why: str = ""
    ) -> tuple[Manifest, bool]:
        """Stores an artifact; see `Versions.add`."""
        self._prepare()
        return self.versions.add(data, lineage or Lineage(), Act.now(self.who, why))

    def link_image(self, digest: str, version: str, why: str = "") -> tuple[Image, bool]:
        """Records the registered version in an image; see `Images.add`."""
        self.versions.manifest(version)
        self._prepare()
        return self.images.add(Image(digest, version, Act.now(self.who, why)))

    def state(self) -> State:
        """All aliases, and the number of the newest ledger record."""
        return self.ledger.state()

    def history(self, alias: str | None = None) -> list[Record]:
        """Every record, or those of one alias, oldest first."""
        return [r for r in self.ledger.records() if alias in (None, r.move.alias)]

    def resolve(self, reference: str) -> str:
        """Resolves an alias, a version, a prefix of one, or an image.

        Raises:
            RegistryError: there is no match, or more than one.
        """
        target = self.state().aliases.get(reference, reference)
        if target.startswith(PREFIX):
            return self.images.find(target).version
        found = self.versions.names(target) if _HEX.fullmatch(target) else []
        if len(found) == 1 and len(target) >= _FEWEST_DIGITS:
            return found[0]
        if found:
            listed = ", ".join(version[:16] for version in found[:5])
            raise RegistryError(f"{reference} is a prefix of {listed}: give more digits")
        raise RegistryError(
            f"{reference} is no alias, version or image in {self.store.url}: see `list`"
        )

    def promote(
        self,
        version: str,
        alias: str = CHAMPION,
        *,
        why: str = "",
        verdict: str = UNCHECKED,
        evidence: Mapping[str, Any] | None = None,
        seen: int | None = None,
    ) -> Record | None:
        """Points an alias at a registered version, after verifying its bytes.

        Args:
            verdict, evidence: the gates' results; if the verdict is "refused", the attempt is only
                recorded.
            seen: the number of `state` that the verdict is based on; by default, the current one.

        Returns:
            The record, or None if the alias points there already.

        Raises:
            Conflict: the alias was moved since `seen`.
            Damaged: the version's bytes are not what was registered.
        """
        self.versions.model(version)
        return self.move(
            alias, version, kind="promote", why=why, verdict=verdict, evidence=evidence, seen=seen
        )

    def rollback(
        self,
        alias: str = CHAMPION,
        to: str | None = None,
        *,
        why: str = "",
        expected: str | None = None,
    ) -> Record | None:
        """Points an alias at its previous target, or at `to`, without gates.

        Args:
            expected: roll back only from this version, so that repeating goes no further back.

        Returns:
            The record, or None if it was done already.

        Raises:
            RegistryError: there is no previous target.
            Conflict: the alias points elsewhere, or was moved meanwhile.
        """
        state, history = self.state(), self.history(alias)
        current = state.aliases.get(alias)
        if expected is not None and current != expected:
            last = next((r for r in reversed(history) if r.move.moved), None)
            if last and last.move.kind == "rollback" and last.source == expected:
                return None
            raise Conflict(f"{alias} is at {current}, not at {expected}; see `history`")
        target = to or previous_target(history, alias)
        if target is None:
            raise RegistryError(f"{alias} has no previous version to go back to: see `history`")
        if not target.startswith(PREFIX):
            self.versions.model(target)
        return self.move(
            alias, target, kind="rollback", why=why, verdict=UNCHECKED, seen=state.number
        )

    def move(
        self,
        alias: str,
        target: str | None,
        *,
        kind: str,
        why: str = "",
        verdict: str,
        evidence: Mapping[str, Any] | None = None,
        seen: int | None = None,
    ) -> Record | None:
        """Appends one record: the alias points at `target`, or is removed (None).

        The basis of `promote` and `rollback`; a release with its own pointers may use it directly,
        with an image (``sha256:…``) as target. Arguments and errors as for `promote`.
        """
        check_alias(alias)
        self._prepare()
        act = Act.now(self.who, why)
        move = Move(alias, target, kind, act.who, act.when, why, verdict, dict(evidence or {}))
        seen = self.state().number if seen is None else seen

        def decide(state: State) -> Move | None:
            if move.moved and state.aliases.get(alias) == target:
                return None
            if move.moved:
                self._require_unmoved(alias, seen)
            return move

        return self.ledger.append(decide)

    def _require_unmoved(self, alias: str, seen: int) -> None:
        moves = [r for r in self.ledger.records(seen) if r.move.moved and r.move.alias == alias]
        if moves:
            last = moves[-1]
            raise Conflict(
                f"{last.move.who} moved {alias} to {last.move.target} at {last.move.when} (record "
                f"{last.number}, {last.move.kind}), after this was decided: nothing was changed. "
                "Look at `history`, then repeat the command to be judged against what is there now"
            )

    def _has_format(self) -> bool:
        try:
            data = self.store.read(FORMAT)
        except KeyError:
            return False
        try:
            number = json.loads(data)["format"]
        except (ValueError, TypeError, KeyError) as exc:
            raise StoreError(f"{FORMAT} in {self.store.url} is unreadable: {exc!r}") from exc
        if number != _FORMAT_NUMBER:
            raise StoreError(
                f"{self.store.url} has format {number}, expected {_FORMAT_NUMBER}: "
                "another release of Kiln made it"
            )
        return True

    def _prepare(self) -> None:
        """Checks before the first write that the store refuses to overwrite."""
        if self._is_prepared:
            return
        ours, other = (
            json.dumps({"format": _FORMAT_NUMBER, "id": uuid.uuid4().hex}).encode()
            for _ in range(2)
        )
        self.store.create(FORMAT, ours)
        if self.store.create(FORMAT, other):
            raise StoreError(
                f"{self.store.url} ignores If-None-Match and overwrites objects: a registry there "
                "would lose writes"
            )
        self._is_prepared = True


def check_alias(alias: str) -> None:
    """RegistryError if an alias cannot have this name."""
    if not _ALIAS.fullmatch(alias) or _HEX.fullmatch(alias):
        raise RegistryError(
            f"{alias!r} is no name for an alias: expected lower-case letters, digits and ._/- , "
            "a letter first, and not hexadecimal digits alone, which look like a version"
        )


def usual_location() -> str:
    """Default location of the registry."""
    return kept_place("KILN_REGISTRY", "registry")


@dataclass(frozen=True)
class Inspection:
    """The result of checking a whole registry."""

    versions: int
    records: int
    images: int
    signed: int  # versions with a signature, by the trusted key if there is one
    problems: tuple[str, ...]
    leftovers: tuple[Stored, ...]  # unreferenced: harmless, but take space


def inspect(
    registry: Registry,
    progress: Callable[[str], None] = lambda _: None,
    key: PublicKey | None = None,
) -> Inspection:
    """Reads every object: digests, graph and weights of models, the ledger's chain, all links.

    Args:
        key: the trusted key; an invalid signature is a problem, a missing one is not.
    """
    problems = registry.ledger.problems()
    versions, signed = registry.versions.names(), 0
    progress(f"reading {len(versions)} versions")
    for version in versions:
        try:
            model = registry.versions.model(version)
            registry.weights.of(version)
            signatures = registry.signatures.of(version)
            if key and key.fingerprint in signatures:
                verify(model, signatures[key.fingerprint], key)
            signed += key.fingerprint in signatures if key else bool(signatures)
        except Damaged as exc:
            problems.append(str(exc))
        except SignatureError as exc:
            problems.append(f"the signature of version {version}: {exc}")
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
        pass  # already among the ledger's problems
    for digest in sorted(images):
        try:
            if (version := registry.images.find(digest).version) not in known:
                problems.append(f"image {digest} holds {version}, which is not registered")
        except (Damaged, RegistryError) as exc:
            problems.append(str(exc))
    try:
        found = tuple(leftovers(registry))
    except Damaged:
        found = ()  # without the manifest, its bytes are unknown
    return Inspection(len(versions), records, len(images), signed, tuple(problems), found)


def leftovers(registry: Registry) -> list[Stored]:
    """Bytes that no manifest references, and incomplete files.

    Includes those of registrations in progress. Models are listed first, so one committed meanwhile
    counts as referenced.
    """
    candidates = registry.store.entries(MODELS)
    named = {registry.versions.manifest(version).file.key for version in registry.versions.names()}
    unnamed = [stored for stored in candidates if stored.key not in named]
    return [*registry.store.unfinished(), *unnamed]


def collect(registry: Registry, grace_s: float = GRACE_S, *, dry_run: bool = False) -> list[Stored]:
    """Removes leftovers older than any registration takes; returns them.

    Raises:
        Damaged: a manifest cannot be read, so its bytes are unknown.
    """
    oldest = time.time() - grace_s
    removed = [stored for stored in leftovers(registry) if stored.modified < oldest]
    for stored in removed:
        if not dry_run:
            registry.store.delete(stored.key)
    return removed
