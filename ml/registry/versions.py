"""The registered versions: ``versions/<version>.json``, each naming its bytes in ``models/``."""

from __future__ import annotations

import hashlib
import uuid
from concurrent.futures import ThreadPoolExecutor

from ml.registry.errors import Conflict, Damaged, RegistryError
from ml.registry.manifest import Act, Lineage, Manifest
from ml.registry.store import Store
from serve.contract.artifact import ArtifactError, ArtifactMetadata, read_artifact
from serve.contract.model_file import read_model_file

MODELS = "models/"

_FOLDER = "versions/"
_READERS = 16


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
        if self._store.create(_key(metadata.version), manifest.to_json()):
            return manifest, True
        self._store.delete(key)
        return _same(self.manifest(metadata.version), data, metadata), False

    def names(self, start: str = "") -> list[str]:
        """All versions that begin with these digits, sorted."""
        stored = self._store.entries(f"{_FOLDER}{start}")
        return [entry.key.removeprefix(_FOLDER).removesuffix(".json") for entry in stored]

    def manifests(self) -> list[Manifest]:
        """All of them, oldest first.

        Raises:
            Damaged: one cannot be read.
        """
        with ThreadPoolExecutor(_READERS) as pool:
            found = list(pool.map(self.manifest, self.names()))
        return sorted(found, key=lambda manifest: (manifest.registered.when, manifest.version))

    def find(self, version: str) -> Manifest | None:
        """The manifest of a full version, if it is registered."""
        try:
            data = self._store.read(_key(version))
        except KeyError:
            return None
        try:
            manifest = Manifest.from_json(data)
            if manifest.version != version:
                raise ValueError(f"it describes {manifest.version}")
        except (ValueError, KeyError, TypeError, AttributeError) as exc:
            raise Damaged(
                f"{_key(version)} in {self._store.url} is no manifest ({exc!r}): "
                "restore it from a backup"
            ) from exc
        return manifest

    def manifest(self, version: str) -> Manifest:
        """The same; RegistryError if it is not registered."""
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


def _key(version: str) -> str:
    return f"{_FOLDER}{version}.json"
