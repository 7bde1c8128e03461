"""Where a run's code and packages come from."""

import hashlib
import os
import subprocess
from pathlib import Path

LOCK = Path(__file__).absolute().parents[1] / "requirements_lock.txt"
UNKNOWN = "unknown"


def git_revision() -> str:
    """Commit of the user's workspace, with ``-dirty`` if tracked files differ from it; ``unknown``
    outside git.

    Under Bazel the program runs among links, so the workspace is where ``bazel run`` was typed.
    """
    folder = Path(os.environ.get("BUILD_WORKSPACE_DIRECTORY") or Path(__file__).absolute().parent)
    try:
        command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        answer = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, check=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return UNKNOWN
    return answer.stdout.strip() or UNKNOWN


def lock_digest(lock: Path = LOCK) -> str:
    """SHA-256 in hex of the lock of all packages."""
    return hashlib.sha256(lock.read_bytes()).hexdigest()
