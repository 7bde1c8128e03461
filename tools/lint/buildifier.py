"""What we ask of buildifier, and whether it is there."""

from __future__ import annotations

import os
from pathlib import Path

# Its default warnings but one: `sources()` names its targets itself, the same in every package.
CHECKS = "-warnings=-unnamed-macro"


def why_missing(program: Path) -> str | None:
    """The reason that stands in the program's place where it could not be had, else None."""
    if os.access(program, os.X_OK):
        return None
    return program.read_text(encoding="utf-8").strip()
