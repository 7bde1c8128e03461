"""Mirrors a run to TensorBoard and MLflow with Lightning's loggers.

They run in a thread that follows the run folder, not in the trainer, where they would move its
checkpoints, and a failing or hanging tracking server would abort or block training. Test metrics,
known only after training, come from the folder, too.
"""

import json
import logging
import math
import os
import re
import shutil
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf
from rich.console import Console

from common.files import write_whole
from ml.runs.folder import RunFolder, read_rows

if TYPE_CHECKING:
    from lightning.pytorch.loggers import MLFlowLogger, TensorBoardLogger
    from lightning.pytorch.loggers.logger import Logger

_LOOK_S = 1.0  # polling interval
_FILES = ("config.yaml", "provenance.json", "summary.json", "report.html", "model.onnx")


class LoggerThread:
    """Follows a run folder while the context is open; its errors never affect training.

    Args:
        run: the mirrored run.
        console: receives error messages.
        patience_s: how long the end of a run waits for pending writes.
    """

    name = "logger"

    def __init__(self, run: RunFolder, console: Console, *, patience_s: float) -> None:
        self.run = run
        self._console = console
        self._patience_s = patience_s
        self._ended = threading.Event()
        self._status = "failed"  # unless the run is ending
        self._problem = ""
        self._where = ""
        self._thread = threading.Thread(target=self._work, daemon=True, name=self.name)

    def __enter__(self) -> "LoggerThread":
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._status = "success" if kind is None else "failed"
        self._ended.set()
        self._thread.join(self._patience_s)
        if self._thread.is_alive():
            self._say(f"not done after {self._patience_s:g} s; the run folder has everything")
        elif self._problem:
            self._say(f"{self._problem}; the run folder has everything")
        else:
            self._say(self._where)

    def open(self) -> "Logger":
        """Creates Lightning's logger, in the thread."""
        raise NotImplementedError

    def known_steps(self, logger: Any) -> set[int]:
        """Steps logged by an interrupted part of this run."""
        return set()

    def tell_scores(self, logger: Any, scores: dict[str, float], step: int) -> None:
        """Logs the test metrics of a finished run."""
        logger.log_metrics(scores, step=step)

    def close(self, logger: Any) -> str:
        """Ends the log of a run; returns where to view it."""
        raise NotImplementedError

    def _work(self) -> None:
        try:
            logger = self.open()
            logger.log_hyperparams(self._config())
            known = self.known_steps(logger)
            is_last = False
            while not is_last:
                is_last = self._ended.wait(_LOOK_S)
                for row in read_rows(self.run.metrics):
                    if row["step"] not in known:
                        known.add(row["step"])
                        logger.log_metrics(_finite(row), step=row["step"])
            if scores := dict(self._scores()):
                self.tell_scores(logger, scores, max(known, default=0))
            logger.finalize(self._status)
            self._where = self.close(logger)
        except BaseException as exc:  # a client's SystemExit must not end training either
            self._problem = f"{type(exc).__name__}: {str(exc).partition(chr(10))[0][:200]}"

    def _config(self) -> dict[str, Any]:
        plain: Any = OmegaConf.to_container(self.run.load_config())
        return {str(key): value for key, value in plain.items() if key != "logger"}

    def _scores(self) -> Iterator[tuple[str, float]]:
        """``test/accuracy`` and so on, once the run is finished."""
        if self._status == "success" and self.run.is_finished:
            summary = json.loads(self.run.summary.read_text(encoding="utf-8"))
            for key, value in summary.get("test", {}).items():
                if isinstance(value, int | float):
                    yield f"test/{key}", float(value)

    def _say(self, text: str) -> None:
        self._console.print(f"[bold]{self.name}:[/] {text}", highlight=False, soft_wrap=True)


def _finite(row: Mapping[str, float]) -> dict[str, float]:
    return {key: value for key, value in row.items() if key != "step" and math.isfinite(value)}


class TensorBoard(LoggerThread):
    """Event files in ``tensorboard/`` of the run folder, rewritten when the run continues."""

    name = "TensorBoard"

    def open(self) -> "TensorBoardLogger":
        """Lightning's logger in an empty folder."""
        from lightning.pytorch.loggers import TensorBoardLogger

        shutil.rmtree(self.run.path / "tensorboard", ignore_errors=True)
        logger = TensorBoardLogger(
            self.run.path, name="", version="tensorboard", default_hp_metric=False
        )
        text = self.run.config.read_text(encoding="utf-8")
        logger.experiment.add_text("config", "".join(f"    {line}\n" for line in text.split("\n")))
        return logger

    def tell_scores(self, logger: Any, scores: dict[str, float], step: int) -> None:
        """Logs metrics with the configuration: the hyperparameter table only shows runs with
        metrics.
        """
        logger.log_hyperparams(self._config(), scores, step)

    def close(self, logger: Any) -> str:
        """The command that shows the event files."""
        return f"tensorboard --logdir {self.run.path.parent}"


class MLflow(LoggerThread):
    """An MLflow run, continued when the run folder is.

    Args:
        tracking_uri: of a server or database; None is ``mlflow.db`` beside ``runs/``.
        experiment: created if missing.
        tags: for filtering.
    """

    name = "MLflow"

    def __init__(
        self,
        run: RunFolder,
        console: Console,
        *,
        patience_s: float,
        experiment: str,
        tracking_uri: str | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(run, console, patience_s=patience_s)
        home = run.path.absolute().parents[1]
        self._artifacts = None if tracking_uri else (home / "mlartifacts").as_uri()
        self._uri = tracking_uri or f"sqlite:///{home / 'mlflow.db'}"
        self._experiment = experiment
        self._tags = dict(tags or {})

    @property
    def _id(self) -> Path:
        return self.run.path / "mlflow_run_id"

    def open(self) -> "MLFlowLogger":
        """Lightning's logger for this folder's MLflow run."""
        # Short timeouts for unavailable servers; MLflow's own telemetry is off.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        for name in ("mlflow", "alembic", "lightning.pytorch.loggers.mlflow"):
            logging.getLogger(name).setLevel(logging.ERROR)
        from lightning.pytorch.loggers import MLFlowLogger

        logger = MLFlowLogger(
            self._experiment,
            run_name=self.run.path.name,
            tracking_uri=self._uri,
            tags=self._tags,
            artifact_location=self._artifacts,
            run_id=self._id.read_text().strip() if self._id.is_file() else None,
        )
        assert logger.run_id
        write_whole(self._id, logger.run_id + "\n")
        return logger

    def known_steps(self, logger: Any) -> set[int]:
        """Steps that the MLflow run already has."""
        return {one.step for one in logger.experiment.get_metric_history(logger.run_id, "epoch")}

    def close(self, logger: Any) -> str:
        """Uploads the files; returns the run's address."""
        for name in _FILES:
            if (self.run.path / name).is_file():
                logger.experiment.log_artifact(logger.run_id, str(self.run.path / name))
        return f"run {logger.run_id} in {re.sub('//[^/@]*@', '//', self._uri)}"
