"""Which targets a change reaches: `bazel run //tools:affected -- --base origin/main`.

Compared are the commit where the branch left --base, and the files on disk (or --head). A changed
source file reaches what depends on it; a changed BUILD or .bzl file, or one that went, all targets
of the packages concerned; the lock, MODULE.bazel, what it loads, .bazelrc and the like everything.
Not seen are programs that repository rules run (ml/data/fetch.py): what they deliver is pinned.

  bazel run //tools:affected                                   a summary, against origin/main
  bazel run //tools:affected -- --base HEAD~1 --json
  bazel run //tools:affected -- --tests --output /tmp/tests
  bazel test --target_pattern_file=/tmp/tests

Exit codes: 0 told, 2 unknown revision, 3 Bazel could not answer.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from common.files import user_path

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


BAD_INPUT, NO_ANSWER = 2, 3  # exit codes
_PARTIAL = 3  # Bazel's exit code for: an answer, but some labels do not exist


class QueryFailed(Exception):
    """Bazel gave no answer; the message is its own."""


def bazel_query(workspace: Path, expression: str) -> list[str]:
    """Labels, by the Bazel of the workspace.

    Raises:
        QueryFailed: it could not load the packages.
    """
    with tempfile.NamedTemporaryFile("w", suffix=".query", encoding="utf-8") as file:
        file.write(expression)  # longer than a command line may be
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
    workspace = Path(os.environ.get("BUILD_WORKSPACE_DIRECTORY", "."))
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
    parser = argparse.ArgumentParser(
        prog="bazel run //tools:affected --",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--base", default="origin/main", help="where the branch started")
    parser.add_argument("--head", help="a revision (default: the files on disk)")
    parser.add_argument("--tests", action="store_true", help="only tests")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--targets", action="store_true", help="a label a line, nothing else")
    form.add_argument("--json", action="store_true", help="one JSON document")
    parser.add_argument("--output", metavar="FILE", help="also write a label a line there")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
