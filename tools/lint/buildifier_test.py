"""Fails when buildifier would lay out or warn about one of our BUILD and Starlark files."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tools.lint.buildifier import CHECKS, why_missing


def main(arguments: Sequence[str]) -> int:
    program, *files = arguments
    if reason := why_missing(Path(program)):
        print(f"SKIPPED: {reason}")
        return 0
    checks = ["-mode=diff", "-lint=warn", CHECKS]
    if subprocess.run([program, *checks, *files], check=False).returncode:
        print("\nMost of it is repaired by: bazel run //tools:format", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
