"""What a sub-command hands back, for people and for scripts."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Answer:
    """What was found or done."""

    show: Callable[[Console], None]
    data: dict[str, Any]
    exit_code: int = 0


def lines(*texts: str) -> Callable[[Console], None]:
    """Shows texts in rich's markup, those that are not empty."""
    return partial(_print, texts)


def typed_path(text: str) -> Path:
    """Relative to where the command was typed."""
    return Path(os.environ.get("BUILD_WORKING_DIRECTORY", "")) / Path(text).expanduser()


def _print(texts: tuple[str, ...], console: Console) -> None:
    for text in filter(None, texts):
        console.print(text, highlight=False, soft_wrap=True)
