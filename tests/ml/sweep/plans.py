"""A plan of few and cheap trials."""

from pathlib import Path
from typing import Any

from ml.sweep.plan import Plan


def small_plan(workspace: Path, **changes: Any) -> Plan:
    """A plan in a workspace, one dimension, with what a test wants otherwise."""
    values: dict[str, Any] = {
        "name": "small",
        "command": ("sweep=base", "label_smoothing=interval(0,0.5)"),
        "folder": str(workspace / "multirun" / "small"),
        "objectives": (("val/accuracy", "maximize"),),
        "overrides": ("experiment=smoke",),
        "space": {"label_smoothing": "interval(0,0.5)"},
        "n_trials": 5,
        "sampler": "tpe",
        "startup_trials": 2,
        "pruner": "none",
        "max_epochs": 3,
        "seed": 0,
        "start_from_defaults": True,
        "workers": 1,
        "threads": 1,
        "storage": None,
        "heartbeat_s": 1,
        "grace_s": 2,
        "retries": 2,
        "max_failures": 3,
        "keep_checkpoints": 1,
        "experiment": "small_best",
        "experiments": str(workspace / "configs" / "experiment"),
    }
    return Plan(**values | changes)
