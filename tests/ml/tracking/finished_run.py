"""A run folder as a finished training leaves it, made in a moment."""

import json
from pathlib import Path

from omegaconf import OmegaConf
from PIL import Image

from ml.runs.folder import RunFolder


def write_run(path: Path, *, epochs: int = 3, finished: bool = True) -> RunFolder:
    """Ten steps an epoch, of ten seconds each, on two classes."""
    run = RunFolder(path)
    path.mkdir(parents=True)
    OmegaConf.save({"name": "small", "seed": 0, "optimizer": {"lr": 0.5}, "logger": {}}, run.config)
    run.provenance.write_text(
        json.dumps(
            {
                "started": "2026-01-02T03:04:05+00:00",
                "git_revision": "c0ffee",
                "dataset_digest": "da7a",
                "config_digest": "c0f1",
            }
        )
    )
    rows = [
        {"epoch": n, "step": 10 * n, "val/accuracy": n / 10, "elapsed_s": 10.0 * n}
        for n in range(1, epochs + 1)
    ]
    run.metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))
    used = [{"elapsed_s": float(s), "cpu_percent": 10.0 * s} for s in range(0, 10 * epochs, 5)]
    run.system.write_text("".join(json.dumps(row) + "\n" for row in used))
    if finished:
        _write_results(run)
    return run


def _write_results(run: RunFolder) -> None:
    test = {"accuracy": 0.75, "images": 8, "classes": ["cat", "dog"], "confusion": [[3, 1], [1, 3]]}
    summary = {"name": "small", "monitor": "val/accuracy", "val/accuracy": 0.3, "test": test}
    run.summary.write_text(json.dumps(summary | {"model_version": "abcdef"}))
    run.model.write_bytes(b"the model")
    for folder, name in ((run.plots, "learning_curves"), (run.mistakes, "01_cat_as_dog_97%")):
        folder.mkdir()
        Image.new("RGB", (32, 32), "red").save(folder / f"{name}.png")
