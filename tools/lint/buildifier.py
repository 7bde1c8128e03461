"""Our configuration of buildifier, and whether it is available."""

from __future__ import annotations

import os
from pathlib import Path

# Its default warnings except one: `sources()` generates target names, the same in every package.
CHECKS = "-warnings=-unnamed-macro"


def why_missing(program: Path) -> str | None:
    """The reason recorded in the program's place if it is unavailable, else None."""
    if os.access(program, os.X_OK):
        return None
    return program.read_text(encoding="utf-8").strip()
