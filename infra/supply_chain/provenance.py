"""The SLSA provenance of an image, as an in-toto predicate.

https://slsa.dev/spec/v1.0/provenance defines the fields; `BUILD_TYPE` documents those that it
leaves to the build system. The statement's subject, the image itself, is filled in by cosign.
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

PREDICATE_TYPE = "https://slsa.dev/provenance/v1"
BUILD_TYPE = "urn:kiln:bazel-image:1"
SERVICE = "//serve:image"  # the target that is built; WATCHER holds the release manager
WATCHER = "//infra:watch_image"
DIRTY = "-dirty"  # suffix of the commit if the workspace has uncommitted changes


class ProvenanceError(ValueError):
    """Not one of our predicates; the message names the missing or invalid part."""


@dataclass(frozen=True)
class Model:
    """The model artifact in the image, from its metadata; digests in hexadecimal."""

    version: str
    name: str
    quantisation: str
    sha256: str
    git_revision: str
    config_digest: str
    dataset_digest: str
    lock_digest: str
    device: str
    precision: str
    test_images: int
    test_accuracy: float
    test_macro_f1: float
    test_loss: float
    test_calibration_error: float


@dataclass(frozen=True)
class Provenance:
    """The provenance of one build of the image.

    Attributes:
        repository: URL of the git remote; empty if there is none.
        commit: 40 hexadecimal digits, followed by `DIRTY` if the workspace had changes.
        lock, sbom: SHA-256 of requirements_lock.txt and of the CycloneDX bill of materials.
        model: what is inside; None in the watcher's image, which holds none.
        builder: URI of the builder: a workflow, or ``urn:kiln:builder:local``.
        run: URI of the workflow run; empty outside CI.
        finished: UTC, ISO 8601.
        target: what was built, SERVICE or WATCHER.
    """

    repository: str
    commit: str
    lock: str
    sbom: str
    model: Model | None
    builder: str
    run: str
    finished: str
    target: str = SERVICE

    def to_predicate(self) -> dict[str, Any]:
        """The provenance as a JSON-ready SLSA predicate."""
        dependencies = [
            {"name": "source", "uri": self.repository, "digest": {"gitCommit": self.commit}},
            {"name": "requirements_lock.txt", "digest": {"sha256": self.lock}},
            *(_dependencies(self.model) if self.model else ()),
        ]
        metadata = {"invocationId": self.run, "finishedOn": self.finished}
        return {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {"target": self.target},
                "internalParameters": {},
                "resolvedDependencies": dependencies,
            },
            "runDetails": {
                "builder": {"id": self.builder},
                "metadata": metadata,
                "byproducts": [{"name": "sbom.cdx.json", "digest": {"sha256": self.sbom}}],
            },
        }

    @classmethod
    def from_predicate(cls, predicate: Mapping[str, Any]) -> Provenance:
        """Inverse of `to_predicate`.

        Raises:
            ProvenanceError: it is not one of our predicates.
        """
        try:
            definition, run = predicate["buildDefinition"], predicate["runDetails"]
            if definition["buildType"] != BUILD_TYPE:
                raise ProvenanceError(f"built as {definition['buildType']}, expected {BUILD_TYPE}")
            dependencies = {entry["name"]: entry for entry in definition["resolvedDependencies"]}
            [sbom] = run["byproducts"]
            source, target = dependencies["source"], definition["externalParameters"]["target"]
            return cls(
                repository=source.get("uri", ""),
                commit=source["digest"]["gitCommit"],
                lock=dependencies["requirements_lock.txt"]["digest"]["sha256"],
                sbom=sbom["digest"]["sha256"],
                model=_model(dependencies["model.onnx"]) if target != WATCHER else None,
                builder=run["builder"]["id"],
                run=run["metadata"].get("invocationId", ""),
                finished=run["metadata"]["finishedOn"],
                target=target,
            )
        except KeyError as exc:
            raise ProvenanceError(f"{exc} is missing") from exc
        except (TypeError, AttributeError) as exc:
            raise ProvenanceError(f"not of the expected form: {exc}") from exc


def _dependencies(model: Model) -> list[dict[str, Any]]:
    facts = asdict(model)
    digest = facts.pop("sha256")
    return [
        {"name": "dataset", "digest": {"sha256": model.dataset_digest}},
        {"name": "config", "digest": {"sha256": model.config_digest}},
        {"name": "model.onnx", "digest": {"sha256": digest}, "annotations": facts},
    ]


def _model(entry: Mapping[str, Any]) -> Model:
    values = {**entry["annotations"], "sha256": entry["digest"]["sha256"]}
    return Model(**{field.name: values[field.name] for field in fields(Model)})


def commit_of(workspace: Path) -> str:
    """HEAD, followed by `DIRTY` if a tracked file differs from it; empty outside git.

    Untracked files are ignored: Bazel writes MODULE.bazel.lock into a clean clone.
    """
    commit = _git(workspace, "rev-parse", "HEAD")
    changes = _git(workspace, "status", "--porcelain", "--untracked-files=no")
    return commit + (DIRTY if commit and changes else "")


def repository_of(workspace: Path) -> str:
    """URL of the remote `origin`, without credentials."""
    address = _git(workspace, "remote", "get-url", "origin")
    scheme, separator, rest = address.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}" if separator else address


def _git(workspace: Path, *command: str) -> str:
    done = subprocess.run(["git", *command], cwd=workspace, capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else ""
