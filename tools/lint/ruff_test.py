"""Fails when ruff would change or reject one of our Python files."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence

from common.programs import wheel_program


def main(files: Sequence[str]) -> int:
    ruff = str(wheel_program("ruff"))
    settings = ["--no-cache", "--quiet", "--config=pyproject.toml"]
    lint = subprocess.run([ruff, "check", *settings, *files], check=False)
    layout = subprocess.run([ruff, "format", "--diff", *settings, *files], check=False)
    if lint.returncode or layout.returncode:
        print("\nMost of it is repaired by: bazel run //tools:format", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
