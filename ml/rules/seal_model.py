"""Writes a release's revision into an exported artifact; graph, weights and version do not change.

Builds without --stamp leave it "unknown": training does not depend on the revision, and a file
with one would differ between commits.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import onnx

from ml.artifact.artifact import ArtifactError, load_artifact, write_artifact
from ml.runs.provenance import UNKNOWN

REFUSALS = (ArtifactError,)
KEY = "STABLE_GIT_REVISION"  # printed by tools/workspace_status


def revision(status: str) -> str:
    """The revision in Bazel's stable-status.txt, whose lines are a key, a space and a value."""
    values = dict(line.partition(" ")[::2] for line in status.splitlines())
    return values.get(KEY) or UNKNOWN


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("model", "status", "output"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    options = parser.parse_args(arguments)
    metadata = load_artifact(options.model, threads=1).metadata
    sealed = replace(metadata, git_revision=revision(options.status.read_text(encoding="utf-8")))
    written = write_artifact(onnx.load(options.model), sealed, options.output)
    assert written.version == metadata.version
