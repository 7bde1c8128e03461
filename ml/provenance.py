"""Where a run's code and packages come from."""

import hashlib
import os
import subprocess
from pathlib import Path

LOCK = Path(__file__).absolute().parents[1] / "requirements_lock.txt"
UNKNOWN = "unknown"
_TRAINING_READS = (":/ml", ":/configs", ":/serve/contract", ":/requirements_lock.txt")


def git_revision() -> str:
    """Commit of the user's workspace, with ``-dirty`` if tracked files differ from it; ``unknown``
    outside git.

    Under Bazel the program runs among links, so the workspace is where ``bazel run`` was typed.
    """
    answer = _git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    return answer.strip() or UNKNOWN


def uncommitted_changes() -> str:
    """How the tracked files that training reads differ from their commit, as a patch for ``git
    apply``; empty if they do not, and outside git."""
    return _git("diff", "HEAD", "--no-ext-diff", "--no-color", "--binary", "--", *_TRAINING_READS)


def _git(*command: str) -> str:
    folder = Path(os.environ.get("BUILD_WORKSPACE_DIRECTORY") or Path(__file__).absolute().parent)
    try:
        answer = subprocess.run(
            ["git", *command],
            cwd=folder,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            check=True,
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return answer.stdout


def lock_digest(lock: Path = LOCK) -> str:
    """SHA-256 in hex of the lock of all packages."""
    return hashlib.sha256(lock.read_bytes()).hexdigest()
