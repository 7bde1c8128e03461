"""Pages as a reader follows them: the files to write, and the commands to type."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

_BLOCK = re.compile(r"^```(?P<language>\w+)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)
_FILE = re.compile(r"(?:#|//) (?P<path>mine/\S+)\n")


@dataclass(frozen=True)
class Page:
    """Of documentation: the files that it has the reader write, and the lines to type."""

    files: dict[str, str]
    commands: list[str]


def read_page(path: Path) -> Page:
    """The blocks of a page; a file says its path in its first line."""
    files, commands = dict[str, str](), list[str]()
    for block in _BLOCK.finditer(path.read_text(encoding="utf-8")):
        named = _FILE.match(block["body"])
        if named:
            files[named["path"]] = block["body"]
        elif block["language"] == "sh":
            commands += block["body"].splitlines()
    return Page(files, commands)


def write_files(page: Page, folder: Path) -> None:
    """As the reader would."""
    for name, text in page.files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
