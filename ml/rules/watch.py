#!/usr/bin/env python3
"""Follows, from another terminal, the progress of the training that `bazel build //ml:model` runs.

    ./ml/rules/watch.py

Not a `bazel run` target, which would wait for the build to end; it only needs Python.
"""

import sys
import time
from pathlib import Path

WORKSPACE = Path(__file__).resolve().parents[2]
_PATTERN = "execroot/*/bazel-out/*/bin/ml/**/network.pt.progress"
_PAUSE_S = 1.0


def output_base(workspace: Path) -> Path | None:
    """The workspace's output base, found by the link bazel-out."""
    link = workspace / "bazel-out"
    return link.resolve().parents[2] if link.is_symlink() else None


def running(base: Path) -> Path | None:
    """The newest progress file, in a sandbox or outside."""
    found = [*base.glob(f"sandbox/*/*/{_PATTERN}"), *base.glob(_PATTERN)]
    return max(found, key=lambda path: path.stat().st_mtime, default=None)


def follow(path: Path) -> None:
    """Prints the file's content and follows it until it is removed."""
    with path.open(encoding="utf-8", errors="replace") as file:
        while True:
            gone = not path.exists()  # checked first, so that the last lines are still read
            sys.stdout.write(file.read())
            sys.stdout.flush()
            if gone:
                return
            time.sleep(_PAUSE_S)


def main(workspace: Path = WORKSPACE) -> int:
    base = output_base(workspace)
    path = running(base) if base else None
    if path is None:
        print(
            f"No build is training in {workspace}. Start one: bazel build //ml:model",
            file=sys.stderr,
        )
        return 1
    follow(path)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
