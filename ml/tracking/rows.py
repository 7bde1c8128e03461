"""The lines of a run folder's JSONL files."""

import json
from pathlib import Path
from typing import Any


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The lines of a JSONL file; none if it is missing. A last line that is being written, or that
    a kill cut short, is left out."""
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines[:-1]]
