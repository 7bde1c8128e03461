"""Writes the revision of a release into an exported artifact; graph, weights and version stay.

Builds without --stamp leave it "unknown": a revision is no input of training, and a file that
names one would differ from commit to commit.
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
    """The revision in Bazel's stable-status.txt: lines of a key, a blank and a value."""
    values = dict(line.partition(" ")[::2] for line in status.splitlines())
    return values.get(KEY) or UNKNOWN


def main(arguments: Sequence[str]) -> None:
    """Entry point of the action."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("model", "status", "output"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    options = parser.parse_args(arguments)
    metadata = load_artifact(options.model, threads=1).metadata
    sealed = replace(metadata, git_revision=revision(options.status.read_text(encoding="utf-8")))
    written = write_artifact(onnx.load(options.model), sealed, options.output)
    assert written.version == metadata.version
