"""The registry's content: versions with their manifests, and images that contain them."""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from typing import Any

import msgspec

from common.ledger import decode, encode
from common.model.artifact import ArtifactError, ArtifactMetadata, Scores, read_artifact
from common.model.model_file import read_model_file
from common.objects import Conflict, Damaged, Store
from ml.registry.ledger import RegistryError

PREFIX = "sha256:"  # of an image's digest
MODELS = "models/"
_VERSIONS = "versions/"
_IMAGES = "images/"
_SIGNATURES = "signatures/"
_WEIGHTS = "weights/"
_FINGERPRINT = re.compile("[0-9a-f]{64}")
_DIGEST = re.compile(PREFIX + "[0-9a-f]{64}")
_READERS = 16


@dataclass(frozen=True)
class ModelFile:
    """The artifact's bytes: key, SHA-256 and size."""

    key: str
    sha256: str
    size: int


@dataclass(frozen=True)
class RecordedScores:
    """The metrics recorded in the artifact; a separate class, since manifests outlive contracts."""

    images: int
    accuracy: float
    macro_f1: float
    loss: float
    calibration_error: float

    @classmethod
    def of(cls, scores: Scores) -> RecordedScores:
        """Copies an artifact's metrics."""
        return cls(**{field.name: getattr(scores, field.name) for field in fields(cls)})


@dataclass(frozen=True)
class Act:
    """Who did something, when (UTC, ISO 8601), and why."""

    who: str
    when: str
    why: str

    @classmethod
    def now(cls, who: str, why: str) -> Act:
        """An act at the current time."""
        return cls(who, datetime.now(UTC).isoformat(timespec="milliseconds"), why)


@dataclass(frozen=True)
class Parent:
    """A version that this one was made from, and how: ``int8 of``."""

    version: str
    relation: str


@dataclass(frozen=True)
class Lineage:
    """Provenance beyond the artifact's metadata; empty where unknown."""

    config: Mapping[str, Any] | None = None  # resolved; its digest is `config_digest`
    summary: Mapping[str, Any] | None = None  # training summary: seed, times, validation
    benchmark: Mapping[str, Any] | None = None  # of //ml:benchmark
    parents: tuple[Parent, ...] = ()


@dataclass(frozen=True)
class Manifest:
    """Immutable; named by the digest of graph and weights."""

    version: str
    name: str
    file: ModelFile
    registered: Act
    quantisation: str
    classes: tuple[str, ...]
    input_size: tuple[int, int]  # height, width in pixels
    opset: int
    git_revision: str
    config_digest: str
    dataset_digest: str
    lock_digest: str
    device: str
    precision: str
    test: RecordedScores
    lineage: Lineage

    @classmethod
    def of(
        cls, metadata: ArtifactMetadata, data: bytes, key: str, registered: Act, lineage: Lineage
    ) -> Manifest:
        """The manifest of an artifact's bytes, stored under `key`."""
        same = {field.name for field in fields(cls)} & {field.name for field in fields(metadata)}
        return cls(
            file=ModelFile(key, hashlib.sha256(data).hexdigest(), len(data)),
            registered=registered,
            test=RecordedScores.of(metadata.test_metrics),
            lineage=lineage,
            **{name: getattr(metadata, name) for name in same},
        )

    def as_dict(self) -> dict[str, Any]:
        """The manifest as JSON-ready values."""
        return asdict(self)

    def to_json(self) -> bytes:
        """The manifest as it is stored."""
        return encode(self.as_dict())

    @classmethod
    def from_json(cls, data: bytes) -> Manifest:
        """Inverse of `to_json`; ValueError for anything else."""
        return msgspec.convert(decode(data), cls)


class Versions:
    """Immutable and content-addressed, so writers need no coordination."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def add(self, data: bytes, lineage: Lineage, registered: Act) -> tuple[Manifest, bool]:
        """Stores an artifact's bytes and then its manifest, whose creation is the commit.

        Every attempt writes the bytes under a unique key: those of a killed one are never
        referenced by a manifest, and can be removed at any later time.

        Returns:
            The manifest, and whether it is new; registering a file again changes nothing.

        Raises:
            ArtifactError: the bytes are not a model artifact.
            Conflict: the version is registered with other metadata.
        """
        metadata = read_artifact(data)
        if known := self.find(metadata.version):
            return _same(known, data, metadata), False
        key = f"{MODELS}{metadata.version}-{uuid.uuid4().hex[:8]}.onnx"
        manifest = Manifest.of(metadata, data, key, registered, lineage)
        self._store.create(key, data)
        if self._store.create(_manifest_key(metadata.version), manifest.to_json()):
            return manifest, True
        self._store.delete(key)
        return _same(self.manifest(metadata.version), data, metadata), False

    def names(self, start: str = "") -> list[str]:
        """All versions with this prefix, sorted."""
        stored = self._store.entries(f"{_VERSIONS}{start}")
        return [entry.key.removeprefix(_VERSIONS).removesuffix(".json") for entry in stored]

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
            data = self._store.read(_manifest_key(version))
        except KeyError:
            return None
        try:
            manifest = Manifest.from_json(data)
            if manifest.version != version:
                raise ValueError(f"it describes {manifest.version}")
        except ValueError as exc:
            raise Damaged(
                f"{_manifest_key(version)} in {self._store.url} is not a manifest ({exc!r}): "
                "restore it from a backup"
            ) from exc
        return manifest

    def manifest(self, version: str) -> Manifest:
        """The manifest of a version; RegistryError if it is not registered."""
        if (found := self.find(version)) is None:
            raise RegistryError(f"version {version} is not registered in {self._store.url}")
        return found

    def model(self, version: str) -> bytes:
        """The artifact's bytes, after checking file, graph and weights against the manifest.

        The gates check whether this release can serve them: a registry outlives contracts.

        Raises:
            Damaged: they are missing or changed.
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
    """The manifest, if these bytes are the registered ones."""
    if known.file.sha256 == hashlib.sha256(data).hexdigest():
        return known
    names = ("git_revision", "config_digest", "dataset_digest", "lock_digest", "name", "device")
    pairs = [(name, getattr(known, name), getattr(found, name)) for name in names]
    other = [f"{name} {there}, here {here}" for name, there, here in pairs if there != here]
    raise Conflict(
        f"version {known.version[:12]} was registered by {known.registered.who} at "
        f"{known.registered.when} with other metadata ({'; '.join(other) or 'other metrics'}): "
        "a graph with its weights is registered once, with its first metadata; nothing was written"
    )


def _manifest_key(version: str) -> str:
    return f"{_VERSIONS}{version}.json"


class Signatures:
    """Each version's signatures, by key fingerprint."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def add(self, version: str, signature: bytes, fingerprint: str) -> bool:
        """Stores a signature; false if the key has signed the version before."""
        return self._store.create(f"{_SIGNATURES}{version}/{fingerprint}.sig", signature)

    def of(self, version: str) -> Mapping[str, bytes]:
        """A version's signatures by claimed key fingerprint."""
        folder = f"{_SIGNATURES}{version}/"
        names = [one.key[len(folder) :].removesuffix(".sig") for one in self._store.entries(folder)]
        return {
            name: self._store.read(f"{folder}{name}.sig")
            for name in names
            if _FINGERPRINT.fullmatch(name)
        }


class Weights:
    """What a version can be trained further from: the weights of its training by name, as its run
    folder's ``network.pt`` has them. The model itself is folded for serving."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def add(self, version: str, data: bytes) -> bool:
        """Keeps a version's weights under their digest; false if it has some."""
        if self._store.entries(f"{_WEIGHTS}{version}/"):
            return False
        digest = hashlib.sha256(data).hexdigest()
        return self._store.create(f"{_WEIGHTS}{version}/{digest}.pt", data)

    def of(self, version: str) -> bytes | None:
        """A version's weights, if they were registered.

        Raises:
            Damaged: they are not what was registered.
        """
        for entry in self._store.entries(f"{_WEIGHTS}{version}/"):
            data = self._store.read(entry.key)
            if entry.key != f"{_WEIGHTS}{version}/{hashlib.sha256(data).hexdigest()}.pt":
                raise Damaged(f"{entry.key} in {self._store.url} has another SHA-256: restore it")
            return data
        return None


@dataclass(frozen=True)
class Image:
    """A container image and the model version in it."""

    digest: str  # sha256:…
    version: str
    linked: Act
    id: str = field(default_factory=lambda: uuid.uuid4().hex)  # makes every link unique


class Images:
    """Immutable links, since images are immutable."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def add(self, image: Image) -> tuple[Image, bool]:
        """Stores a link.

        Returns:
            The link, or an equal earlier one; and whether it is new.

        Raises:
            RegistryError: the digest is malformed.
            Conflict: the image is linked to another version.
        """
        if not _DIGEST.fullmatch(image.digest):
            raise RegistryError(
                f"{image.digest} is not an image digest: expected {PREFIX} and 64 hex digits"
            )
        if self._store.create(_image_key(image.digest), f"{json.dumps(asdict(image))}\n".encode()):
            return image, True
        earlier = self._read(image.digest)
        if earlier.version != image.version:
            raise Conflict(
                f"{image.digest} holds version {earlier.version}, linked by {earlier.linked.who} "
                f"at {earlier.linked.when}: an image never changes its model"
            )
        return earlier, False

    def find(self, reference: str) -> Image:
        """The link of an image, by its digest or a prefix of it (``sha256:12ab``).

        Raises:
            RegistryError: it is not linked, or ambiguous.
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
        stored = self._store.entries(f"{_IMAGES}{start.removeprefix(PREFIX)}")
        return [PREFIX + s.key.removeprefix(_IMAGES).removesuffix(".json") for s in stored]

    def all(self) -> list[Image]:
        """All links, oldest first."""
        with ThreadPoolExecutor(_READERS) as pool:
            return sorted(pool.map(self._read, self.digests()), key=lambda i: i.linked.when)

    def _read(self, digest: str) -> Image:
        key = _image_key(digest)
        try:
            return msgspec.json.decode(self._store.read(key), type=Image)
        except (ValueError, KeyError) as exc:
            raise Damaged(
                f"{key} in {self._store.url} is not a link ({exc!r}): restore it"
            ) from exc


def _image_key(digest: str) -> str:
    return f"{_IMAGES}{digest.removeprefix(PREFIX)}.json"
