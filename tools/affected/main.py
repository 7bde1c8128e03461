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
from collections.abc import Sequence
from pathlib import Path

from tools.affected.changes import (
    RULES,
    TESTS,
    AffectedError,
    Changes,
    affected,
    changed_files,
    classify,
)

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
        place = Path(os.environ.get("BUILD_WORKING_DIRECTORY", "."), options.output)
        place.write_text("".join(f"{target}\n" for target in targets), encoding="utf-8")
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
