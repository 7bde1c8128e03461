"""Formats and fixes all tracked Python and Bazel files: `bazel run //tools:format`."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from common.programs import tracked_files, wheel_program

# Of buildifier: the default ones but one, since `sources()` makes the same names in every package.
CHECKS = "-warnings=-unnamed-macro"


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="bazel run //tools:format --", description=__doc__)
    parser.add_argument("buildifier", type=Path, help=argparse.SUPPRESS)
    buildifier = parser.parse_args(arguments).buildifier.absolute()
    os.chdir(os.environ["BUILD_WORKSPACE_DIRECTORY"])
    return max(_format_python(), _format_bazel(buildifier))


def _format_python() -> int:
    ruff, files = str(wheel_program("ruff")), tracked_files("*.py")
    check = subprocess.run([ruff, "check", "--fix", "--no-cache", *files], check=False)
    layout = subprocess.run([ruff, "format", "--no-cache", *files], check=False)
    return max(check.returncode, layout.returncode)


def _format_bazel(buildifier: Path) -> int:
    if reason := why_missing(buildifier):
        print(f"BUILD files left as they are: {reason}", file=sys.stderr)
        return 0
    files = tracked_files("*.bazel", "*.bzl")
    repair = ["-mode=fix", "-lint=fix", CHECKS]
    return subprocess.run([str(buildifier), *repair, *files], check=False).returncode


def why_missing(program: Path) -> str | None:
    """The reason recorded in a program's place if it is unavailable, else None."""
    if os.access(program, os.X_OK):
        return None
    return program.read_text(encoding="utf-8").strip()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
