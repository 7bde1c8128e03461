"""Lists the targets affected by a change: `bazel run //tools:affected -- --base origin/main`.

Compares the commit where the branch forked from --base with the files on disk (or --head). A
changed source file affects its reverse dependencies; a changed BUILD or .bzl file, or a deleted
file, all targets of the packages concerned; the lock, MODULE.bazel, files that it loads, .bazelrc
and the like affect everything. Programs run by repository rules (ml/data/fetch.py) are not
considered: their outputs are pinned.

  bazel run //tools:affected                                   a summary, against origin/main
  bazel run //tools:affected -- --base HEAD~1 --json
  bazel run //tools:affected -- --tests --output /tmp/tests
  bazel test --target_pattern_file=/tmp/tests

Exit codes: 0 listed, 2 unknown revision, 3 Bazel query failed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from common.command_line import command_parser
from common.files import user_path, workspace_folder

BUILD = "BUILD.bazel"
# A change to these can affect any target: versions, flags, offline rules, packages.
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
    """The affected targets cannot be determined; the message says why."""


@dataclass(frozen=True)
class Changes:
    """A change in the form of a query.

    Attributes:
        everything: changed files that affect all targets; if there are any, the rest is ignored.
        labels: existing source files; some may belong to no target.
        packages: packages all of whose targets count as changed; the root package is "".
        bzl: Starlark files, as paths.
    """

    everything: list[str] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    packages: list[str] = field(default_factory=list)
    bzl: list[str] = field(default_factory=list)


def changed_files(base: str, head: str | None, folder: str) -> list[str]:
    """Paths that differ between the fork point of `head` from `base`, and `head` or else the files
    on disk.

    Raises:
        AffectedError: git does not know a revision, or the two have no common commit.
    """
    start = _git(folder, "merge-base", base, head or "HEAD").strip()
    # Without rename detection: a moved file counts as a deletion and an addition.
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
    """Sorts changed paths by their effect.

    Args:
        exists: whether a path exists now; packages are found by their BUILD files.
    """
    changes = Changes()
    for file in files:
        path = PurePosixPath(file)
        if file in GLOBAL_FILES or file.startswith(tuple(f"{f}/" for f in GLOBAL_FOLDERS)):
            changes.everything.append(file)
        elif path.suffix == ".bzl" and exists(file):
            changes.bzl.append(file)
        elif path.name == BUILD or not exists(file):
            # The package's targets may have changed; if it was deleted, its files now belong to its
            # parent.
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
    """The innermost folder with a BUILD file at or above the path; None if there is none."""
    for folder in path.parents:
        name = "" if str(folder) == "." else str(folder)
        if exists(f"{name}/{BUILD}" if name else BUILD):
            return name
    return None


def _below(path: PurePosixPath, package: str) -> str:
    return str(path.relative_to(package)) if package else str(path)


Query = Callable[[str], Sequence[str]]

RULES, TESTS = "rule", "_test rule"  # rule kinds, for `affected`
_MANUAL = r'attr(tags, "[\[ ]manual[,\]]", $found)'


def affected(changes: Changes, query: Query, kind: str = RULES) -> list[str]:
    """Non-manual rules of the workspace affected by a change, sorted.

    Args:
        query: runs one Bazel query expression; nonexistent labels are left out.
    """
    if changes.everything:
        return _rules("//...", kind, query)
    seeds = [*_quoted(changes.labels), *(f"//{package}:*" for package in changes.packages)]
    for file in changes.bzl:
        packages = _packages_loading(file, query)
        if not packages:  # then MODULE.bazel has changed, or a file that it loads
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


BAD_INPUT, NO_ANSWER = 2, 3  # exit codes
_PARTIAL = 3  # Bazel's exit code for partial success: some labels do not exist


class QueryFailed(Exception):
    """Bazel's query failed; the message is its output."""


def bazel_query(workspace: Path, expression: str) -> list[str]:
    """The labels that a query yields in this workspace.

    Raises:
        QueryFailed: it could not load the packages.
    """
    with tempfile.NamedTemporaryFile("w", suffix=".query", encoding="utf-8") as file:
        file.write(expression)  # exceeds the maximum length of a command line
        file.flush()
        command = [str(workspace / "tools" / "bazel"), "query", f"--query_file={file.name}"]
        command += ["--keep_going", "--noshow_progress", "--ui_event_filters=-info"]
        if "rbuildfiles" in expression:
            command += ["--universe_scope=//...", "--order_output=no"]
        done = subprocess.run(command, cwd=workspace, capture_output=True, text=True)
    if done.returncode not in (0, _PARTIAL):
        raise QueryFailed(done.stderr.strip())
    return done.stdout.split()


def main(arguments: Sequence[str]) -> int:
    options = _options().parse_args(arguments)
    workspace = workspace_folder()
    try:
        files = changed_files(options.base, options.head, str(workspace))
        changes = classify(files, lambda name: (workspace / name).exists())
        kind = TESTS if options.tests else RULES
        targets = affected(changes, lambda text: bazel_query(workspace, text), kind)
    except AffectedError as error:
        print(f"affected: {error}", file=sys.stderr)
        return BAD_INPUT
    except QueryFailed as error:
        print(f"affected: {error}", file=sys.stderr)
        return NO_ANSWER
    if options.output:
        text = "".join(f"{target}\n" for target in targets)
        user_path(options.output).write_text(text, encoding="utf-8")
    _tell(options, files, changes, targets)
    return 0


def _tell(
    options: argparse.Namespace, files: Sequence[str], changes: Changes, targets: Sequence[str]
) -> None:
    if options.json:
        told = {"files": files, "everything_by": changes.everything, "targets": targets}
        print(json.dumps(told, indent=2))
    elif options.targets:
        print("\n".join(targets))
    else:
        print(f"{len(files)} changed files reach {len(targets)} targets")
        if changes.everything:
            print(f"everything, because of {', '.join(changes.everything[:3])}")
        for package, count in Counter(t.partition(":")[0] for t in targets).most_common():
            print(f"{count:6} {package}")


def _options() -> argparse.ArgumentParser:
    parser = command_parser("//tools:affected", __doc__)
    parser.add_argument(
        "--base", default="origin/main", help="revision that the branch forked from"
    )
    parser.add_argument("--head", help="a revision (default: the files on disk)")
    parser.add_argument("--tests", action="store_true", help="only tests")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--targets", action="store_true", help="print only labels, one per line")
    form.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--output", metavar="FILE", help="also write the labels to this file, one per line"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
