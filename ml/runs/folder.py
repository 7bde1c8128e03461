"""The folder of a run: request, progress, metrics and results; and finding a run to continue."""

import fcntl
import hashlib
import json
import math
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import DictConfig, OmegaConf

from common.files import write_whole

_NOT_PART_OF_A_RUN = (
    "resume",
    "rerun",
    "paths",
    "budget",
)  # how and where it is started, not what it computes


class ResumeError(ValueError):
    """The run cannot be continued; the message says why and what to do."""


@dataclass(frozen=True)
class RunFolder:
    """Paths in a run folder. ``summary.json`` is written last: a run without it is unfinished."""

    path: Path

    @property
    def config(self) -> Path:
        return self.path / "config.yaml"

    @property
    def provenance(self) -> Path:
        return self.path / "provenance.json"

    @property
    def changes(self) -> Path:
        return self.path / "changes.patch"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def last_checkpoint(self) -> Path:
        return self.checkpoints / "last.ckpt"

    @property
    def weights(self) -> Path:
        return self.path / "network.pt"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def metrics_table(self) -> Path:
        return self.path / "metrics.csv"

    @property
    def system(self) -> Path:
        return self.path / "system.jsonl"

    @property
    def mistakes(self) -> Path:
        return self.path / "mistakes"

    @property
    def plots(self) -> Path:
        return self.path / "plots"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    @property
    def model(self) -> Path:
        return self.path / "model.onnx"

    @property
    def summary(self) -> Path:
        return self.path / "summary.json"

    @property
    def training(self) -> Path:
        """The training's facts, which //ml:train writes into the summary."""
        return self.path / "training.json"

    @property
    def is_finished(self) -> bool:
        return self.summary.is_file()

    def load_config(self) -> DictConfig:
        """The configuration that the run was started with.

        Raises:
            ResumeError: there is none.
        """
        if not self.config.is_file():
            raise ResumeError(f"{self.path} holds no config.yaml: it is not a run folder")
        loaded = OmegaConf.load(self.config)
        assert isinstance(loaded, DictConfig)
        return loaded

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Locks the folder against other processes during this process's life.

        Raises:
            ResumeError: another process holds the lock.
        """
        with (self.path / ".lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:  # the system's message, "temporarily unavailable", would be misleading
                raise ResumeError(f"another process is training in {self.path}") from None
            yield

    @contextmanager
    def discarded_unless_begun(self) -> Iterator[None]:
        """Removes the folder if an error occurs before the first training record is written."""
        try:
            yield
        except BaseException:
            if not self.metrics.exists():
                shutil.rmtree(self.path)
            raise

    def is_busy(self) -> bool:
        """True while a process trains here."""
        if not (self.path / ".lock").exists():  # checking must not create a file
            return False
        try:
            with self.lock():
                return False
        except ResumeError:
            return True


def create_run(runs: Path, cfg: DictConfig, now: datetime) -> RunFolder:
    """A new folder below ``runs``, named by time and run name, with its configuration."""
    runs.mkdir(parents=True, exist_ok=True)
    stem = f"{now:%Y-%m-%d_%H-%M-%S}_{re.sub(r'[^A-Za-z0-9._-]+', '-', cfg.name)}"
    for attempt in range(1, 1000):
        path = runs / (stem if attempt == 1 else f"{stem}-{attempt}")
        try:
            path.mkdir()
        except FileExistsError:
            continue
        try:
            return open_run(path, cfg)
        except OSError:
            shutil.rmtree(path, ignore_errors=True)
            raise
    raise OSError(f"{runs / stem} and 998 more of that name exist already")


def open_run(path: Path, cfg: DictConfig) -> RunFolder:
    """A run in a given folder, created if missing, with its configuration."""
    run = RunFolder(path)
    write_whole(run.config, OmegaConf.to_yaml(run_config(cfg)))
    return run


def find_unfinished(runs: Path, configurations: Sequence[DictConfig]) -> RunFolder | None:
    """The newest run below ``runs`` with one of these configurations that is neither finished nor
    running.
    """
    wanted = {config_digest(cfg) for cfg in configurations}
    for path in sorted(runs.glob("*/config.yaml"), reverse=True):
        run = RunFolder(path.parent)
        if not run.is_finished and config_digest(run.load_config()) in wanted and not run.is_busy():
            return run
    return None


def open_unfinished(path: Path) -> RunFolder:
    """The unfinished run in a folder.

    Raises:
        ResumeError: it does not exist, is not a run folder, or is finished.
    """
    run = RunFolder(path)
    if not path.is_dir():
        raise ResumeError(f"resume={path}: there is no such folder")
    run.load_config()
    if run.is_finished:
        raise ResumeError(f"resume={path}: this run is finished, its results are in {run.summary}")
    return run


def run_config(cfg: DictConfig) -> DictConfig:
    """The part of the configuration that determines results."""
    plain = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(plain, dict)
    return OmegaConf.create({k: v for k, v in plain.items() if k not in _NOT_PART_OF_A_RUN})


def config_digest(cfg: DictConfig) -> str:
    """SHA-256 in hex of what is computed: independent of the order of keys."""
    plain: Any = OmegaConf.to_container(run_config(cfg))
    for key in ("logger", "preset"):  # display and budget options do not affect results
        plain.pop(key, None)
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


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
