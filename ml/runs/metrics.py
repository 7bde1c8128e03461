"""Rows of a run's metrics, and the best epoch among them."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import DictConfig


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The lines of a JSONL file; none if it is missing. A last line that is being written, or that
    a kill cut short, is left out."""
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines[:-1]]


Row = TypeVar("Row", bound=Mapping[str, float])
DIRECTIONS = {"accuracy": "max", "loss": "min", "macro_f1": "max"}


def direction(metric: str, otherwise: str | None = None) -> str | None:
    """``min`` or ``max``, whichever is better, by the last part of a metric's name, as in
    ``val/loss``; for a metric that is not ours, `otherwise`."""
    return DIRECTIONS.get(metric.rpartition("/")[2], otherwise)


def best_row(rows: Sequence[Row], cfg: DictConfig) -> Row:
    """The metrics of the epoch whose weights the run keeps: of equal ones the last, as
    `ml.training.callbacks.BestCheckpoint` has it, and one that is not a number only if all are."""
    sign = 1 if cfg.callbacks.checkpoint.mode == "min" else -1

    def rank(row: Row) -> tuple[bool, float]:
        value = row[cfg.monitor]
        return math.isnan(value), sign * value

    return min(reversed(rows), key=rank)
