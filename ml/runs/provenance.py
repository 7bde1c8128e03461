"""A run's provenance: commit, packages, and differences from the run that it continues or
repeats.
"""

import hashlib
import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from common.files import sha256_of, write_whole
from ml.runs.folder import RunFolder

LOCK = Path(__file__).absolute().parents[2] / "requirements_lock.txt"
UNKNOWN = "unknown"
_NEW = (":(top)ml/*.py", ":(top)common/model/*.py", ":(top)configs/*.yaml")  # including subfolders
_TRAINING_READS = (":/ml", ":/configs", ":/common/model", ":/requirements_lock.txt")


def git_revision() -> str:
    """Commit of the user's workspace, with ``-dirty`` if tracked files differ; ``unknown`` outside
    git.

    Under Bazel the program runs in a tree of links: the workspace is where ``bazel run`` started.
    """
    answer = _git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    return answer.strip() or UNKNOWN


def uncommitted_changes() -> str:
    """Uncommitted changes of files that training reads, including new code and configuration, as a
    patch for ``git apply``; empty if there are none, and outside git.
    """
    shown = ("--no-ext-diff", "--no-color", "--binary")
    changed = _git("diff", "HEAD", *shown, "--", *_TRAINING_READS)
    top = _git("rev-parse", "--show-toplevel").strip()
    new = _git("ls-files", "--others", "--exclude-standard", "-z", "--full-name", "--", *_NEW)
    patches = (
        _git("diff", *shown, "--no-index", "--", os.devnull, path, folder=Path(top))
        for path in sorted(filter(None, new.split("\0")))
    )
    return "".join((changed, *patches))


def _git(*command: str, folder: Path | None = None) -> str:
    folder = folder or Path(
        os.environ.get("BUILD_WORKSPACE_DIRECTORY") or Path(__file__).absolute().parent
    )
    try:
        answer = subprocess.run(
            ["git", *command],
            cwd=folder,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    differs = "--no-index" in command and answer.returncode == 1
    return answer.stdout if answer.returncode == 0 or differs else ""


def lock_digest(lock: Path = LOCK) -> str:
    """SHA-256 in hex of the lock of all packages."""
    return sha256_of(lock)


# Facts that must be equal for two runs of one configuration to be the same, with display names.
_INGREDIENTS = {
    "git_revision": "different code revision",
    "changes_digest": "different uncommitted changes",
    "lock_digest": "different package lock",
    "dataset_digest": "another dataset",
    "device": "different CPU or GPU",
    "initial_weights": "different initial weights",
}


def mark_rerun(run: RunFolder, original: RunFolder) -> None:
    """Records in a new folder which run it repeats."""
    write_whole(run.provenance, json.dumps({"rerun_of": str(original.path)}) + "\n")


def record_start(
    run: RunFolder,
    *,
    config_digest: str,
    dataset_digest: str,
    classes: Sequence[str],
    device: str,
    own_code: Mapping[str, str],
    initial_weights: Path | None = None,
) -> list[str]:
    """Writes provenance.json, and changes.patch if the code differs from its commit; a continued
    run keeps its first record, and notes the continuation if something changed.

    Args:
        own_code: digest of each user module, see `ml.runs.own_code`.
        initial_weights: the file that training starts from, if any.

    Returns:
        The differences from the run that this one continues or repeats, one sentence each.
    """
    changes = uncommitted_changes()
    now: dict[str, Any] = {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "git_revision": git_revision(),
        "changes_digest": hashlib.sha256(changes.encode()).hexdigest() if changes else "",
        "lock_digest": lock_digest(),
        "config_digest": config_digest,
        "dataset_digest": dataset_digest,
        "classes": list(classes),
        "device": device,
        "own_code": dict(own_code),
        "initial_weights": sha256_of(initial_weights) if initial_weights else "",
        "python": platform.python_version(),
    }
    before = read_provenance(run)
    if "started" in before:
        differences = _differences(before, now)
        if differences:
            before.setdefault("continued", []).append(now)
            write_whole(run.provenance, json.dumps(before, indent=2) + "\n")
        return differences
    write_whole(run.provenance, json.dumps(now | before, indent=2) + "\n")
    if changes:
        write_whole(run.changes, changes)
    if "rerun_of" not in before:
        return []
    original = read_provenance(RunFolder(Path(before["rerun_of"])))
    if not original:
        return [f"{before['rerun_of']} has no provenance"]
    return _differences(original, now)


def read_provenance(run: RunFolder) -> dict[str, Any]:
    """The content of provenance.json; empty for a run without it."""
    if not run.provenance.is_file():
        return {}
    read: dict[str, Any] = json.loads(run.provenance.read_text(encoding="utf-8"))
    return read


def _differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    found = [
        f"{name}: {_short(before.get(key))} then, {_short(now[key])} now"
        for key, name in _INGREDIENTS.items()
        if (before.get(key) or "") != (now[key] or "")  # earlier releases had fewer of them
    ]
    then, code = before.get("own_code", now["own_code"]), now["own_code"]
    if changed := sorted(name for name in {*then, *code} if then.get(name) != code.get(name)):
        found.append(f"different user code: {', '.join(changed)} changed")
    return found


def _short(value: str | None) -> str:
    """Shortens digests; other values are unchanged."""
    if not value:
        return "none"
    head, _, rest = value.partition("-")
    is_digest = len(head) >= 40 and all(letter in "0123456789abcdef" for letter in head)
    return (head[:12] + ("-" + rest if rest else "")) if is_digest else value
