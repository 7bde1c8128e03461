"""The workspace that an image is built from: its commit, and where that commit was published."""

from __future__ import annotations

import subprocess
from pathlib import Path

from infra.supply_chain.provenance import DIRTY


def commit_of(workspace: Path) -> str:
    """HEAD, with `DIRTY` behind it if a tracked file differs from it; empty outside git.

    Untracked files do not count: Bazel itself writes MODULE.bazel.lock into a clean clone.
    """
    commit = _git(workspace, "rev-parse", "HEAD")
    changes = _git(workspace, "status", "--porcelain", "--untracked-files=no")
    return commit + (DIRTY if commit and changes else "")


def repository_of(workspace: Path) -> str:
    """Address of the remote `origin`, without a user and password in it."""
    address = _git(workspace, "remote", "get-url", "origin")
    scheme, separator, rest = address.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}" if separator else address


def _git(workspace: Path, *command: str) -> str:
    done = subprocess.run(["git", *command], cwd=workspace, capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else ""
