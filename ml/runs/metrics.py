"""Rows of a run's metrics, and the best epoch."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import DictConfig


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The lines of a JSONL file; none if it is missing. An incomplete last line, being written or
    cut off by a kill, is skipped.
    """
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines[:-1]]


Row = TypeVar("Row", bound=Mapping[str, float])
DIRECTIONS = {"accuracy": "max", "loss": "min", "macro_f1": "max"}


def direction(metric: str, otherwise: str | None = None) -> str | None:
    """``min`` or ``max``, whichever is better, by the last part of a metric's name, as in
    ``val/loss``; `otherwise` for unknown metrics.
    """
    return DIRECTIONS.get(metric.rpartition("/")[2], otherwise)


def best_row(rows: Sequence[Row], cfg: DictConfig) -> Row:
    """The metrics of the best epoch, whose weights the run keeps: the last of equal ones, as in
    `ml.training.callbacks.BestCheckpoint`, and NaN only if all are.
    """
    sign = 1 if cfg.callbacks.checkpoint.mode == "min" else -1

    def rank(row: Row) -> tuple[bool, float]:
        value = row[cfg.monitor]
        return math.isnan(value), sign * value

    return min(reversed(rows), key=rank)
