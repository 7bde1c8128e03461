"""A run's provenance: commit, packages, and differences from the run that it continues or
repeats.
"""

import ast
import hashlib
import importlib.machinery
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

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


def lock_digest() -> str:
    """SHA-256 in hex of the lock of all packages."""
    return sha256_of(LOCK)


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
        own_code: digest of each user module, see `own_code`.
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


ROOT = Path(__file__).absolute().parents[2]
_OURS = ("ml", "common")
_INSTALLED = {"site-packages", "dist-packages"}  # folders of a path
_LOOKS_UP = "hydra.utils.get_"  # get_class, get_method, get_object: their path argument names code


def own_code(cfg: DictConfig) -> dict[str, Path]:
    """User code that a configuration reaches: the files, by module name, of the modules behind each
    ``_target_`` that are neither ours nor installed, and of their imports from the same places;
    packages are their ``__init__.py``.

    Nothing is imported: files are found as the import system would find them, and read.
    """
    found: dict[str, Path] = {}
    waiting = list(_targets(OmegaConf.to_container(cfg, resolve=True)))
    seen = set[str]()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        for module, path in _own_modules(name):
            if module not in found:
                found[module] = path
                waiting += _imports(module, path)
    return dict(sorted(found.items()))


def own_code_digests(cfg: DictConfig) -> dict[str, str]:
    """SHA-256 in hex of each module's file, by module name."""
    return {name: sha256_of(path) for name, path in own_code(cfg).items()}


def outside_of_the_build(cfg: DictConfig) -> list[Path]:
    """Files among them that are not inputs of a build action, so that its cache key would ignore
    them.
    """
    runfiles = [folder for folder in ROOT.parents if folder.name.endswith(".runfiles")]
    given = runfiles[0] if runfiles else ROOT
    return [path for path in own_code(cfg).values() if not path.is_relative_to(given)]


def _targets(value: Any) -> Iterator[str]:
    """Dotted names that a configuration instantiates or calls, at any depth."""
    if isinstance(value, dict):
        target = str(value.get("_target_", ""))
        yield from filter(None, (target, str(value.get("path", "")) * target.startswith(_LOOKS_UP)))
    for entry in value.values() if isinstance(value, dict) else value:
        if isinstance(entry, dict | list):
            yield from _targets(entry)


def _own_modules(name: str) -> Iterator[tuple[str, Path]]:
    """The modules along a dotted name, from the top-level package on."""
    parts = name.split(".")
    if not parts[0] or parts[0] in _OURS or parts[0] in sys.stdlib_module_names:
        return
    folders: list[str] | None = None  # search path of the next one, initially sys.path
    for length in range(1, len(parts) + 1):
        module = ".".join(parts[:length])
        # By its last part: for a full name, a namespace package would need its parent imported.
        spec = importlib.machinery.PathFinder.find_spec(parts[length - 1], folders)
        if spec is None:
            return  # a class or function, or nothing, which training then reports
        if spec.origin and spec.has_location:
            path = Path(spec.origin)
            if _INSTALLED & {*path.resolve().parts}:
                return
            yield module, path
        if spec.submodule_search_locations is None:
            return
        folders = list(spec.submodule_search_locations)


def _imports(module: str, path: Path) -> Iterator[str]:
    """Dotted names that a file imports anywhere; the last part may not be a module."""
    if path.suffix != ".py":
        return
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):  # training reports it
        return
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: -node.level + 1 or None] if node.level else []
            start = ".".join([*above, *([node.module] if node.module else [])])
            yield from (f"{start}.{alias.name}" for alias in node.names)
