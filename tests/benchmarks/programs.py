"""Runs the programs of benchmarks/, which say how far they are ten times a second instead of every
20 s."""

from __future__ import annotations

import os
import subprocess
import sys

_EAGER = """
import runpy, sys
from common import terminal
terminal.EVERY_S = 0.1
sys.argv[:2] = [sys.argv[1]]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""


def run(module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The program with its output as text."""
    return subprocess.run(
        [sys.executable, "-c", _EAGER, module, *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )


def progress(errors: str, work: str) -> list[str]:
    """The lines of progress about a piece of work, such as ``fuzzing``."""
    return [line for line in errors.splitlines() if line.removeprefix("still ").startswith(work)]
