"""The model registry: versions by content, aliases by a ledger, images by their model.

Every object is written once, and one creation commits each action: a manifest, a record of the
ledger, a link. So there is nothing to repair after a kill; what it leaves is unreferenced.
"""

from __future__ import annotations

import getpass
import hashlib
import json
import os
import re
import socket
import uuid
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any
from urllib.parse import urlsplit

from common.files import user_path
from common.model.artifact import ArtifactError, ArtifactMetadata, read_artifact
from common.model.model_file import read_model_file
from ml.registry.ledger import Ledger, Move, Record, State, previous_target
from ml.registry.manifest import Act, Lineage, Manifest
from ml.registry.store import Conflict, Damaged, FolderStore, RegistryError, Store, StoreError

PREFIX = "sha256:"
_FOLDER = "images/"
_DIGEST = re.compile(PREFIX + "[0-9a-f]{64}")
_READERS = 16


@dataclass(frozen=True)
class Image:
    """A container image and the model version inside it."""

    digest: str  # sha256:…
    version: str
    linked: Act
    id: str = field(default_factory=lambda: uuid.uuid4().hex)  # so that no two links are alike


class Images:
    """Links that never change, since an image does not."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def add(self, image: Image) -> tuple[Image, bool]:
        """Keeps a link.

        Returns:
            It, or the same link made earlier; and whether it is new.

        Raises:
            RegistryError: its digest is none.
            Conflict: the image is linked to another version.
        """
        if not _DIGEST.fullmatch(image.digest):
            raise RegistryError(
                f"{image.digest} is no image digest: expected {PREFIX} and 64 hexadecimal digits"
            )
        if self._store.create(_key(image.digest), f"{json.dumps(asdict(image))}\n".encode()):
            return image, True
        earlier = self._read(image.digest)
        if earlier.version != image.version:
            raise Conflict(
                f"{image.digest} holds version {earlier.version}, linked by {earlier.linked.who} "
                f"at {earlier.linked.when}: an image never changes its model"
            )
        return earlier, False

    def find(self, reference: str) -> Image:
        """The link of an image, by its digest or the start of one (``sha256:12ab``).

        Raises:
            RegistryError: it is not linked, or not the only one.
        """
        found = self.digests(reference)
        if len(found) != 1:
            cure = "give more digits" if found else "`link` records which version an image holds"
            raise RegistryError(
                f"{reference} fits {len(found)} images in {self._store.url}: {cure}"
            )
        return self._read(found[0])

    def digests(self, start: str = "") -> list[str]:
        """All linked image digests with this prefix, sorted."""
        stored = self._store.entries(f"{_FOLDER}{start.removeprefix(PREFIX)}")
        return [PREFIX + s.key.removeprefix(_FOLDER).removesuffix(".json") for s in stored]

    def all(self) -> list[Image]:
        """Every link, oldest first."""
        with ThreadPoolExecutor(_READERS) as pool:
            return sorted(pool.map(self._read, self.digests()), key=lambda i: i.linked.when)

    def _read(self, digest: str) -> Image:
        key = _key(digest)
        try:
            values = json.loads(self._store.read(key))
            return Image(linked=Act(**values.pop("linked")), **values)
        except (ValueError, KeyError, TypeError, AttributeError) as exc:
            raise Damaged(f"{key} in {self._store.url} is no link ({exc!r}): restore it") from exc


def _key(digest: str) -> str:
    return f"{_FOLDER}{digest.removeprefix(PREFIX)}.json"


MODELS = "models/"
_VERSIONS_FOLDER = "versions/"


class Versions:
    """Immutable and named after their content, so that writers need no order among them."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def add(self, data: bytes, lineage: Lineage, registered: Act) -> tuple[Manifest, bool]:
        """Keeps an artifact's bytes with their manifest, whose creation is the commit.

        Every attempt writes the bytes under a key of its own: what a killed one leaves is named by
        no manifest and never will be, so it can be removed at any later time.

        Returns:
            The manifest, and whether it is new: the same file again changes nothing.

        Raises:
            ArtifactError: the bytes are no model artifact.
            Conflict: the version is registered with other metadata.
        """
        metadata = read_artifact(data)
        if known := self.find(metadata.version):
            return _same(known, data, metadata), False
        key = f"{MODELS}{metadata.version}-{uuid.uuid4().hex[:8]}.onnx"
        manifest = Manifest.of(metadata, data, key, registered, lineage)
        self._store.create(key, data)
        if self._store.create(_versions_key(metadata.version), manifest.to_json()):
            return manifest, True
        self._store.delete(key)
        return _same(self.manifest(metadata.version), data, metadata), False

    def names(self, start: str = "") -> list[str]:
        """All versions with this prefix, sorted."""
        stored = self._store.entries(f"{_VERSIONS_FOLDER}{start}")
        return [entry.key.removeprefix(_VERSIONS_FOLDER).removesuffix(".json") for entry in stored]

    def manifests(self) -> list[Manifest]:
        """All manifests, oldest first.

        Raises:
            Damaged: one cannot be read.
        """
        with ThreadPoolExecutor(_READERS) as pool:
            found = list(pool.map(self.manifest, self.names()))
        return sorted(found, key=lambda manifest: (manifest.registered.when, manifest.version))

    def find(self, version: str) -> Manifest | None:
        """The manifest of a full version, if it is registered."""
        try:
            data = self._store.read(_versions_key(version))
        except KeyError:
            return None
        try:
            manifest = Manifest.from_json(data)
            if manifest.version != version:
                raise ValueError(f"it describes {manifest.version}")
        except (ValueError, KeyError, TypeError, AttributeError) as exc:
            raise Damaged(
                f"{_versions_key(version)} in {self._store.url} is no manifest ({exc!r}): "
                "restore it from a backup"
            ) from exc
        return manifest

    def manifest(self, version: str) -> Manifest:
        """The manifest of a version; RegistryError if it is not registered."""
        if (found := self.find(version)) is None:
            raise RegistryError(f"version {version} is not registered in {self._store.url}")
        return found

    def model(self, version: str) -> bytes:
        """The artifact's bytes, once file, graph and weights are what was registered.

        Whether this release can serve them is for the gates to say: a registry outlives contracts.

        Raises:
            Damaged: they are missing, or others.
        """
        file = self.manifest(version).file
        where = f"{file.key} in {self._store.url}, the model of version {version},"
        try:
            data = self._store.read(file.key)
        except KeyError:
            raise Damaged(f"{where} is missing: restore it from a backup") from None
        if (found := hashlib.sha256(data).hexdigest()) != file.sha256:
            raise Damaged(f"{where} has SHA-256 {found}, expected {file.sha256}: restore it")
        try:
            content = read_model_file(data).version
        except ArtifactError as exc:
            raise Damaged(f"{where} is none: {exc}") from exc
        if content != version:
            raise Damaged(f"{where} is version {content}: restore manifest and model")
        return data


def _same(known: Manifest, data: bytes, found: ArtifactMetadata) -> Manifest:
    """The manifest, if these bytes are the ones it stands for."""
    if known.file.sha256 == hashlib.sha256(data).hexdigest():
        return known
    names = ("git_revision", "config_digest", "dataset_digest", "lock_digest", "name", "device")
    pairs = [(name, getattr(known, name), getattr(found, name)) for name in names]
    other = [f"{name} {there}, here {here}" for name, there, here in pairs if there != here]
    raise Conflict(
        f"version {known.version[:12]} was registered by {known.registered.who} at "
        f"{known.registered.when} with other metadata ({'; '.join(other) or 'other metrics'}): "
        "the same graph and weights stand for one origin, the first; nothing was written"
    )


def _versions_key(version: str) -> str:
    return f"{_VERSIONS_FOLDER}{version}.json"


CHAMPION = "champion"
FORMAT = "format.json"
UNCHECKED = "unchecked"  # the verdict of a move that no gate was asked about
_FORMAT_NUMBER = 1
_ALIAS = re.compile(r"[a-z][a-z0-9._/-]{0,63}")
_HEX = re.compile(r"[0-9a-f]+")
_FEWEST_DIGITS = 4


class Registry:
    """Versions, aliases and their history in one store; safe for any number of writers.

    Attributes:
        versions: manifests and model bytes.
        images: which version a container image holds.
        ledger: every move of an alias.
    """

    def __init__(self, store: Store, who: str | None = None) -> None:
        """Act as `who` (KILN_ACTOR, GITHUB_ACTOR, or the user at this machine); StoreError if the
        store cannot be used."""
        self.store, self.who = store, who or _this_user()
        self.versions, self.images, self.ledger = Versions(store), Images(store), Ledger(store)
        self._is_prepared = self._has_format()

    @classmethod
    def open(cls, url: str, who: str | None = None) -> Registry:
        """The registry at ``s3://bucket/prefix`` or in a folder; the first write sets it up."""
        return cls(open_store(url), who)

    def register(
        self, data: bytes, lineage: Lineage | None = None, why: str = ""
    ) -> tuple[Manifest, bool]:
        """Keeps an artifact; see `Versions.add`."""
        self._prepare()
        return self.versions.add(data, lineage or Lineage(), Act.now(self.who, why))

    def link_image(self, digest: str, version: str, why: str = "") -> tuple[Image, bool]:
        """Records that an image holds a registered version; see `Images.add`."""
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
        """The version that an alias, a version, the start of one, or an image stands for.

        Raises:
            RegistryError: nothing fits, or more than one.
        """
        target = self.state().aliases.get(reference, reference)
        if target.startswith(PREFIX):
            return self.images.find(target).version
        found = self.versions.names(target) if _HEX.fullmatch(target) else []
        if len(found) == 1 and len(target) >= _FEWEST_DIGITS:
            return found[0]
        if found:
            listed = ", ".join(version[:16] for version in found[:5])
            raise RegistryError(f"{reference} is the start of {listed}: give more digits")
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
        """Points an alias at a registered version, once its bytes have been read and checked.

        Args:
            verdict, evidence: what the gates said; nothing moves if the verdict is "refused", the
                attempt is recorded alone.
            seen: the number of `state` that the verdict was reached in; by default, now.

        Returns:
            The record, or None if the alias points there already.

        Raises:
            Conflict: somebody moved the alias since `seen`.
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
        """Points an alias at its previous target, or at `to`, without asking any gate.

        Args:
            expected: roll back only from there, so that repeating does not go back further.

        Returns:
            The record, or None if it was done already.

        Raises:
            RegistryError: there is nothing to go back to.
            Conflict: the alias is elsewhere, or was moved meanwhile.
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
        """Appends one record: the alias points at `target`, or nowhere any more (None).

        `promote` and `rollback` are made of it; a release that keeps its own pointers uses it
        directly, with an image (``sha256:…``) for a target if it likes. Arguments and errors as for
        `promote`.
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
        """Before the first write: sees that the store does not let one creation undo another."""
        if self._is_prepared:
            return
        ours, other = (
            json.dumps({"format": _FORMAT_NUMBER, "id": uuid.uuid4().hex}).encode()
            for _ in range(2)
        )
        self.store.create(FORMAT, ours)
        if self.store.create(FORMAT, other):
            raise StoreError(
                f"{self.store.url} overwrites objects that were to be created only if missing "
                "(If-None-Match): a registry there would lose writes"
            )
        self._is_prepared = True


def check_alias(alias: str) -> None:
    """RegistryError if an alias cannot have this name."""
    if not _ALIAS.fullmatch(alias) or _HEX.fullmatch(alias):
        raise RegistryError(
            f"{alias!r} is no name for an alias: expected lower-case letters, digits and ._/- , "
            "a letter first, and not hexadecimal digits alone, which look like a version"
        )


def _this_user() -> str:
    if named := os.environ.get("KILN_ACTOR") or os.environ.get("GITHUB_ACTOR"):
        return named
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # a container's user without a name
        user = f"uid {os.getuid()}"
    return f"{user}@{socket.gethostname()}"


def open_store(url: str) -> Store:
    """The store that a URL or a path names.

    Args:
        url: ``s3://bucket/prefix``, ``file:///absolute/path`` or a path.

    Raises:
        StoreError: another kind of URL, or one without a bucket.
    """
    parts = urlsplit(url)
    if parts.scheme == "s3":
        from ml.registry.s3_store import S3Store  # boto3 takes a while, a folder needs none of it

        if not parts.netloc:
            raise StoreError(f"{url} names no bucket: expected s3://bucket/prefix")
        return S3Store(parts.netloc, parts.path.strip("/"))
    if parts.scheme not in ("", "file") or (parts.scheme and parts.netloc):
        raise StoreError(
            f"{url} cannot hold a registry: expected s3://bucket/prefix, file:///path or a path "
            "(other stores promise no atomic creation)"
        )
    return FolderStore(user_path(parts.path if parts.scheme else url))
