"""Fails if ruff would change or reject a Python file, or a suppression lacks a reason."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from common.programs import wheel_program

_EXCUSE = re.compile(r"#\s*noqa: S\d{3}\b(?!.*#\s*\w{2})")


def main(files: Sequence[str]) -> int:
    ruff = str(wheel_program("ruff"))
    settings = ["--no-cache", "--quiet", "--config=pyproject.toml"]
    lint = subprocess.run([ruff, "check", *settings, *files], check=False)
    layout = subprocess.run([ruff, "format", "--diff", *settings, *files], check=False)
    if lint.returncode or layout.returncode:
        print("\nMost of it is fixed by: bazel run //tools:format", file=sys.stderr)
    bare = [f"{file}:{number}" for file in files for number in excused_without_reason(file)]
    for place in bare:
        print(f"{place}: expected a reason, as in: noqa: S310 # why it is safe", file=sys.stderr)
    return int(bool(lint.returncode or layout.returncode or bare))


def excused_without_reason(file: str) -> list[int]:
    """Lines that suppress a security rule without a reason."""
    lines = Path(file).read_text(encoding="utf-8").splitlines()
    return [number for number, line in enumerate(lines, 1) if _EXCUSE.search(line)]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
