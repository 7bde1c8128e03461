"""Lets people watch an action: Bazel shows what an action prints only when it has ended."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SUFFIX = ".progress"  # of the file beside the output that is being made; watch.py looks for it


@contextmanager
def shown_beside(output: Path) -> Iterator[None]:
    """Writes what this process prints to a file beside `output` at once, and out at the end.

    The file is none of the action's outputs: under a sandbox it disappears with the sandbox.
    """
    path = output.with_name(output.name + SUFFIX)
    sys.stdout.flush()
    terminal = os.dup(1)
    with path.open("w+b") as file:
        os.dup2(file.fileno(), 1)
        if hasattr(sys.stdout, "reconfigure"):
            sys.stdout.reconfigure(line_buffering=True)
        try:
            yield
        finally:
            sys.stdout.flush()
            os.dup2(terminal, 1)
            os.close(terminal)
            sys.stdout.write(path.read_text(encoding="utf-8", errors="replace"))
            sys.stdout.flush()
            path.unlink(missing_ok=True)
