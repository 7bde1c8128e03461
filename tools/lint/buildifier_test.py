"""Fails if buildifier would reformat or warn about a BUILD or Starlark file."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tools.lint.lint import CHECKS, why_missing


def test_bazel_files_are_laid_out_and_free_of_warnings() -> None:
    program, files = os.environ["BUILDIFIER"], os.environ["BAZEL_SOURCES"].split()
    if reason := why_missing(Path(program)):
        pytest.skip(reason)
    found = subprocess.run(
        [program, "-mode=diff", "-lint=warn", CHECKS, *files],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if found.returncode:
        pytest.fail(f"{found.stdout}\nfix by: bazel run //tools:format", pytrace=False)
