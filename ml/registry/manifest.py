"""A version's manifest: what the model is, and everything it was made from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from typing import Any

from common.model.artifact import ArtifactMetadata, Scores

SCHEMA = 1


@dataclass(frozen=True)
class ModelFile:
    """The artifact's bytes: their object, SHA-256 and number."""

    key: str
    sha256: str
    size: int


@dataclass(frozen=True)
class RecordedScores:
    """The scores recorded in the artifact; a class of its own, because manifests outlive
    contracts."""

    images: int
    accuracy: float
    macro_f1: float
    loss: float
    calibration_error: float

    @classmethod
    def of(cls, scores: Scores) -> RecordedScores:
        """Copies the scores of an artifact."""
        return cls(**{field.name: getattr(scores, field.name) for field in fields(cls)})


@dataclass(frozen=True)
class Act:
    """Who did something, when (UTC, ISO 8601), and why."""

    who: str
    when: str
    why: str

    @classmethod
    def now(cls, who: str, why: str) -> Act:
        """Done this very moment."""
        return cls(who, datetime.now(UTC).isoformat(timespec="milliseconds"), why)


@dataclass(frozen=True)
class Parent:
    """A version that this one was made from, and how: ``int8 of``."""

    version: str
    relation: str


@dataclass(frozen=True)
class Lineage:
    """What the artifact cannot say of itself; empty where it is not known."""

    config: Mapping[str, Any] | None = None  # resolved; its digest is `config_digest`
    summary: Mapping[str, Any] | None = None  # the training's: seed, times, validation
    benchmark: Mapping[str, Any] | None = None  # of //ml:benchmark
    parents: tuple[Parent, ...] = ()


@dataclass(frozen=True)
class Manifest:
    """Immutable, written once; named after the digest of graph and weights."""

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
        """The manifest of an artifact's bytes, to be stored under `key`."""
        return cls(
            version=metadata.version,
            name=metadata.name,
            file=ModelFile(key, hashlib.sha256(data).hexdigest(), len(data)),
            registered=registered,
            quantisation=metadata.quantisation,
            classes=metadata.classes,
            input_size=metadata.input_size,
            opset=metadata.opset,
            git_revision=metadata.git_revision,
            config_digest=metadata.config_digest,
            dataset_digest=metadata.dataset_digest,
            lock_digest=metadata.lock_digest,
            device=metadata.device,
            precision=metadata.precision,
            test=RecordedScores.of(metadata.test_metrics),
            lineage=lineage,
        )

    def as_dict(self) -> dict[str, Any]:
        """The manifest as JSON-ready values."""
        return asdict(self)

    def to_json(self) -> bytes:
        """The manifest as it is stored."""
        values = {"schema": SCHEMA, **self.as_dict()}
        text = json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False)
        return f"{text}\n".encode()

    @classmethod
    def from_json(cls, data: bytes) -> Manifest:
        """Inverse of `to_json`; ValueError, KeyError or TypeError for anything else."""
        values = json.loads(data)
        if values.pop("schema") != SCHEMA:
            raise ValueError("another release of Kiln wrote it")
        lineage = values.pop("lineage")
        parents = tuple(Parent(**parent) for parent in lineage.pop("parents"))
        height, width = values.pop("input_size")
        return cls(
            file=ModelFile(**values.pop("file")),
            registered=Act(**values.pop("registered")),
            classes=tuple(values.pop("classes")),
            input_size=(height, width),
            test=RecordedScores(**values.pop("test")),
            lineage=Lineage(**lineage, parents=parents),
            **values,
        )
