"""The run folders of trials, below the sweep's folder."""

import json
import shutil
from collections.abc import Collection
from pathlib import Path

from omegaconf import DictConfig

from common.files import write_whole
from ml.runs.folder import RunFolder, open_run


def trial_folder(sweep: Path, number: int) -> Path:
    """Where the trial of a number trains."""
    return sweep / "trials" / f"{number:04}"


def open_trial_run(folder: Path, cfg: DictConfig, digest: str) -> RunFolder:
    """The run in a trial's folder: begun anew, unless the very same was begun there before."""
    marker = folder / "digest"
    if folder.exists() and not (marker.is_file() and marker.read_text() == digest):
        shutil.rmtree(folder)
    write_whole(marker, digest)
    return open_run(folder, cfg)


def write_values(run: RunFolder, values: list[float]) -> None:
    """Keeps the values of a trained trial, until the study knows them."""
    write_whole(run.path / "values.json", json.dumps(values) + "\n")


def read_values(run: RunFolder) -> list[float] | None:
    """Reads what `write_values` wrote."""
    path = run.path / "values.json"
    if not path.is_file():
        return None
    values: list[float] = json.loads(path.read_text(encoding="utf-8"))
    return values


def drop_checkpoints(sweep: Path, finished: Collection[int], best: Collection[int]) -> None:
    """Deletes the checkpoints of finished trials that are not among the best; metrics and
    configuration stay."""
    for number in set(finished) - set(best):
        shutil.rmtree(trial_folder(sweep, number) / "checkpoints", ignore_errors=True)
