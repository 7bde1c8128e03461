"""From files that differ to labels that changed."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

BUILD = "BUILD.bazel"
# A change there can change any target: versions, flags, rules of the offline world, packages.
GLOBAL_FILES = {
    ".bazelignore",
    ".bazelrc",
    ".bazelversion",
    "MODULE.bazel",
    "MODULE.bazel.lock",
    "requirements_lock.txt",
    "tools/bazel",
}
GLOBAL_FOLDERS = ("tools/bazelrc", "tools/offline", "tools/provision")


class AffectedError(Exception):
    """Nothing can be said; the message says why."""


@dataclass(frozen=True)
class Changes:
    """What changed, as a query takes it.

    Attributes:
        everything: files that can change any target; if there are any, the rest does not matter.
        labels: source files that still are there; some may be in no package's targets.
        packages: of which every target counts as changed, the root's being empty.
        bzl: Starlark files, as paths.
    """

    everything: list[str] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    packages: list[str] = field(default_factory=list)
    bzl: list[str] = field(default_factory=list)


def changed_files(base: str, head: str | None, folder: str) -> list[str]:
    """Paths that differ between where `head` left `base`, and `head` or else the files on disk.

    Raises:
        AffectedError: git does not know a revision, or the two have no common commit.
    """
    start = _git(folder, "merge-base", base, head or "HEAD").strip()
    # Without renames: a file that moved is one that went and one that came.
    listing = ["diff", "--name-only", "-z", "--no-renames", start, *([head] if head else [])]
    names = set(_git(folder, *listing).split("\0"))
    if head is None:
        untracked = ["ls-files", "-z", "--others", "--exclude-standard"]
        names |= set(_git(folder, *untracked).split("\0"))
    return sorted(names - {""})


def _git(folder: str, *command: str) -> str:
    done = subprocess.run(["git", *command], cwd=folder, capture_output=True, text=True)
    if done.returncode:
        reason = done.stderr.strip() or f"git {' '.join(command)} found nothing in common"
        raise AffectedError(f"{reason}\nIn a shallow clone: git fetch --unshallow")
    return done.stdout


def classify(files: Iterable[str], exists: Callable[[str], bool]) -> Changes:
    """Sorts changed paths by what they change.

    Args:
        exists: whether a path is there now; packages are found by their BUILD files.
    """
    changes = Changes()
    for file in files:
        path = PurePosixPath(file)
        if file in GLOBAL_FILES or file.startswith(tuple(f"{f}/" for f in GLOBAL_FOLDERS)):
            changes.everything.append(file)
        elif path.suffix == ".bzl" and exists(file):
            changes.bzl.append(file)
        elif path.name == BUILD or not exists(file):
            # The package's targets may be others now; if it went, its files are the parent's.
            _add(changes.packages, package_of(path, exists))
        else:
            package = package_of(path, exists)
            if package is not None:
                _add(changes.labels, f"//{package}:{_below(path, package)}")
    return changes


def _add(names: list[str], name: str | None) -> None:
    if name is not None and name not in names:
        names.append(name)


def package_of(path: PurePosixPath, exists: Callable[[str], bool]) -> str | None:
    """The innermost folder with a BUILD file at or above the path's; None if there is none."""
    for folder in path.parents:
        name = "" if str(folder) == "." else str(folder)
        if exists(f"{name}/{BUILD}" if name else BUILD):
            return name
    return None


def _below(path: PurePosixPath, package: str) -> str:
    return str(path.relative_to(package)) if package else str(path)


Query = Callable[[str], Sequence[str]]


RULES, TESTS = "rule", "_test rule"  # kinds, for `affected`
_MANUAL = r'attr(tags, "[\[ ]manual[,\]]", $found)'


def affected(changes: Changes, query: Query, kind: str = RULES) -> list[str]:
    """Rules of the workspace that a change reaches, but for manual ones, sorted.

    Args:
        query: runs one expression of Bazel's query language; labels that do not exist are left out.
    """
    if changes.everything:
        return _rules("//...", kind, query)
    seeds = [*_quoted(changes.labels), *(f"//{package}:*" for package in changes.packages)]
    for file in changes.bzl:
        packages = _packages_loading(file, query)
        if not packages:  # then MODULE.bazel does, or what it loads
            changes.everything.append(file)
            return _rules("//...", kind, query)
        for package in packages:
            _add(seeds, f"//{package}:*")
    return _rules(f"rdeps(//..., set({' '.join(seeds)}))", kind, query) if seeds else []


def _rules(expression: str, kind: str, query: Query) -> list[str]:
    found = f'let found = kind("{kind}", {expression}) in $found except {_MANUAL}'
    return sorted(set(query(found)))


def _quoted(labels: Iterable[str]) -> Iterator[str]:
    return (f'"{label}"' for label in labels)


def _packages_loading(bzl: str, query: Query) -> list[str]:
    files = query(f"rbuildfiles({bzl})")
    labels = [label for label in files if label.startswith("//") and label.endswith(f":{BUILD}")]
    return sorted({label[2:].rpartition(":")[0] for label in labels})
