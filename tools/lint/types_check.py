"""Fails when mypy finds a fault in the given files, whose imports it follows into all our code."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from mypy import api


def main(files: Sequence[str]) -> int:
    # In this process: here sys.path leads to the packages that the test declares, and to no other.
    found, trouble, code = api.run(
        ["--config-file=pyproject.toml", "--cache-dir=/dev/null", "--show-error-context", *files]
    )
    sys.stdout.write(found)
    sys.stderr.write(trouble)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
