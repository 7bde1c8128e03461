"""Runs as TensorBoard and MLflow keep them, read back by their own clients."""

import io
import json
import socket
from pathlib import Path

import mlflow
import pytest
from mlflow.tracking import MlflowClient
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from common.programs import free_port
from ml.runs.folder import RunFolder
from ml.tracking.lightning_loggers import LoggerThread, MLflow, TensorBoard
from ml.training.config import ConfigError, check_values, composed
from tests.ml.data.small_dataset import write_dataset
from tests.ml.tracking.finished_run import write_run
from tests.ml.workspace import SMALL, Workspace

_PATIENCE_S = 120.0
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader")  # within MLflow


def _events(run: Path) -> EventAccumulator:
    return EventAccumulator(str(run / "tensorboard")).Reload()


def _mlflow(run: RunFolder, said: io.StringIO, **options: object) -> MLflow:
    console = Console(file=said, width=200)
    values: dict[str, object] = {"experiment": "kiln", "patience_s": _PATIENCE_S}
    return MLflow(run, console, **values | options)  # type: ignore[arg-type]


def test_tensorboard_gets_curves_configuration_and_test_scores(tmp_path: Path) -> None:
    run = write_run(tmp_path / "runs" / "one")
    for _ in range(2):  # a run that continues is told once, as a whole
        with TensorBoard(run, Console(file=io.StringIO()), patience_s=_PATIENCE_S):
            pass
    events = _events(run.path)
    told = events.Scalars("val/accuracy")
    assert [one.step for one in told] == [10, 20, 30]
    assert [one.value for one in told] == pytest.approx([0.1, 0.2, 0.3])
    assert [(one.step, one.value) for one in events.Scalars("test/accuracy")] == [(30, 0.75)]
    assert b"optimizer/lr" in events.PluginTagToContent("hparams")["_hparams_/session_start_info"]


def test_mlflow_continues_a_run_and_keeps_each_epoch_once(tmp_path: Path) -> None:
    run = write_run(tmp_path / "runs" / "one", epochs=2, finished=False)
    with pytest.raises(KeyboardInterrupt), _mlflow(run, io.StringIO()):
        raise KeyboardInterrupt
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    (experiment,) = client.search_experiments(filter_string="name = 'kiln'")
    (known,) = client.search_runs([experiment.experiment_id])
    assert known.info.status == "FAILED"

    whole = write_run(tmp_path / "whole", epochs=3)
    for path in whole.path.iterdir():
        path.rename(run.path / path.name)
    with _mlflow(run, io.StringIO(), tags={"team": "vision"}):
        pass
    (known,) = client.search_runs([experiment.experiment_id])
    assert (known.info.status, known.info.run_name) == ("FINISHED", "one")
    assert known.data.params["optimizer/lr"] == "0.5"
    assert known.data.metrics["test/accuracy"] == 0.75
    history = client.get_metric_history(known.info.run_id, "val/accuracy")
    assert [one.step for one in history] == [10, 20, 30]
    assert {file.path for file in client.list_artifacts(known.info.run_id)} >= {
        "config.yaml",
        "model.onnx",
        "summary.json",
    }
    assert mlflow.tracking.fluent.active_run() is None  # the user's own session is left alone


@pytest.mark.parametrize("answers", [False, True])
def test_a_server_that_is_away_or_hangs_costs_a_line(tmp_path: Path, answers: bool) -> None:
    run, said = write_run(tmp_path / "runs" / "one"), io.StringIO()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1] if answers else free_port()
        uri = f"http://me:hidden@127.0.0.1:{port}"  # pragma: allowlist secret: not a password
        with _mlflow(run, said, tracking_uri=uri, patience_s=0.5 if answers else _PATIENCE_S):
            pass
    assert said.getvalue().startswith("MLflow: ")
    assert said.getvalue().endswith("the run folder has everything\n")


def test_a_logger_that_breaks_in_the_middle_ends_nothing(tmp_path: Path) -> None:
    class Broken(LoggerThread):
        name = "Broken"

        def open(self) -> None:  # type: ignore[override]
            raise SystemExit(3)

    said = io.StringIO()
    with Broken(write_run(tmp_path / "one"), Console(file=said), patience_s=5):
        pass
    assert "SystemExit: 3" in said.getvalue()


def test_a_training_is_told_to_all_loggers_and_a_missing_server_does_not_end_it(
    tmp_path: Path,
) -> None:
    workspace = Workspace(tmp_path, write_dataset(tmp_path / "dataset", train=200, test=50))
    away = f"logger.mlflow.tracking_uri=http://127.0.0.1:{free_port()}"
    done = workspace.run(*SMALL, "trainer.max_epochs=2", "logger=[tensorboard,mlflow]", away)
    assert done.returncode == 0, done.stderr
    assert "TensorBoard: tensorboard --logdir" in done.stdout, done.stdout
    assert "MLflow: " in done.stdout
    (run,) = workspace.runs
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    told = _events(run).Scalars("val/loss")
    assert [(one.step, one.value) for one in told] == [
        (row["step"], pytest.approx(row["val/loss"])) for row in rows
    ]
    test = json.loads((run / "summary.json").read_text())["test"]
    assert _events(run).Scalars("test/accuracy")[0].value == pytest.approx(test["accuracy"])
    assert (run / "checkpoints" / "best.ckpt").is_file()  # where they are without a logger


@pytest.mark.parametrize(
    ("overrides", "names"),
    [
        (["logger=tensorboard"], {"tensorboard"}),
        (["logger=[tensorboard,mlflow,wandb]"], {"tensorboard", "mlflow", "wandb"}),
        ([], set()),
    ],
)
def test_loggers_are_chosen_by_name(overrides: list[str], names: set[str]) -> None:
    assert set(composed(overrides).logger) == names


def test_patience_has_to_be_above_zero() -> None:
    cfg = composed(["logger=mlflow", "logger.mlflow.patience_s=0"])
    with pytest.raises(ConfigError, match=r"logger\.mlflow\.patience_s=0"):
        check_values(cfg)
