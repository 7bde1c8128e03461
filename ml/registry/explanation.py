"""The chain behind a model: image, version, commit, data, configuration, metrics, decisions."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ml.registry.images import PREFIX, Image
from ml.registry.ledger import Record
from ml.registry.manifest import Manifest
from ml.registry.model_registry import Registry
from ml.registry.request_log import version_in_line, version_of_request


@dataclass(frozen=True)
class Explanation:
    """Everything the registry knows about one version.

    Attributes:
        asked: how each reference led to the next, ending in the version.
        aliases: that point at it now.
        records: of the ledger that name it or an image with it, oldest first.
        parents: manifests of what it was made from, where they are registered.
        commit: subject, author and date, if this machine's repository has the commit.
    """

    asked: tuple[str, ...]
    manifest: Manifest
    aliases: tuple[str, ...]
    images: tuple[Image, ...]
    records: tuple[Record, ...]
    parents: Mapping[str, Manifest | None]
    commit: str | None

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return {
            "asked": list(self.asked),
            "version": self.manifest.version,
            "aliases": list(self.aliases),
            "images": [
                {"digest": image.digest, "linked": vars(image.linked)} for image in self.images
            ],
            "commit": self.commit,
            "manifest": self.manifest.as_dict(),
            "history": [record.as_dict() for record in self.records],
        }


def explain(registry: Registry, reference: str, log: Sequence[str] | None = None) -> Explanation:
    """Walks back from whatever a user has in hand.

    Args:
        reference: alias, version, start of one, image digest, a JSON log line, or the id of a
            request that `log` tells about.
        log: lines that a service wrote.

    Raises:
        RegistryError: it leads to no registered version.
    """
    asked = [reference if len(reference) <= 80 else f"{reference[:77]}..."]
    aliases = registry.state().aliases
    if reference.lstrip().startswith("{"):
        reference = version_in_line(reference)
        asked.append(reference)
    elif log is not None:
        reference = version_of_request(log, reference)
        asked.append(reference)
    if (target := aliases.get(reference, "")).startswith(PREFIX):
        asked.append(target)
    version = registry.resolve(reference)
    if asked[-1] != version:
        asked.append(version)
    manifest = registry.versions.manifest(version)
    images = tuple(image for image in registry.images.all() if image.version == version)
    names = {version, *(image.digest for image in images)}
    return Explanation(
        asked=tuple(asked),
        manifest=manifest,
        aliases=tuple(sorted(alias for alias, target in aliases.items() if target in names)),
        images=images,
        records=tuple(
            record for record in registry.history() if names & {record.source, record.move.target}
        ),
        parents={p.version: registry.versions.find(p.version) for p in manifest.lineage.parents},
        commit=describe_commit(manifest.git_revision),
    )


def describe_commit(revision: str) -> str | None:
    """Date, author and subject, if the user's repository has the commit."""
    folder = os.environ.get("BUILD_WORKSPACE_DIRECTORY", os.curdir)
    command = ["git", "show", "--no-patch", "--date=short", "--format=%ad %an: %s"]
    try:
        answer = subprocess.run(
            [*command, revision.removesuffix("-dirty"), "--"],
            cwd=folder,
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip() or None
