"""Griffe extension: trailing comments of fields and constants become their descriptions."""

from __future__ import annotations

import re
import tokenize
from functools import cache
from pathlib import Path
from typing import Any

import griffe

_FOR_TOOLS = re.compile(r"(noqa|pragma:|type: ignore|ruff:)")


class Comments(griffe.Extension):
    """Reads the comment on an attribute's last line if there is no docstring."""

    def on_attribute_instance(self, *, attr: griffe.Attribute, **_: Any) -> None:
        said = _comments(Path(str(attr.filepath))).get(attr.endlineno or 0)
        if said and attr.docstring is None:
            attr.docstring = griffe.Docstring(said, lineno=attr.endlineno, parent=attr)


@cache
def _comments(path: Path) -> dict[int, str]:
    """Trailing comments addressed to readers, by line."""
    with path.open(encoding="utf-8") as file:
        found = [t for t in tokenize.generate_tokens(file.readline) if t.type == tokenize.COMMENT]
    behind = [token for token in found if token.line[: token.start[1]].strip()]
    texts = {token.start[0]: token.string.lstrip("# ") for token in behind}
    return {line: text for line, text in texts.items() if not _FOR_TOOLS.match(text)}
