"""A training's W&B mirror: complete where the server is there, no hindrance where it is not."""

import io
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from ml.runs.folder import RunFolder
from ml.tracking import wandb_logger
from ml.tracking.wandb_logger import Destination, WandbLogger, WandbProcess
from tests.ml.tracking.finished_run import write_run
from tests.ml.tracking.loopback_wandb import KEY, LoopbackWandb, loopback_wandb

_DESTINATION = Destination("kiln", tags=("a", "b"))
_PATIENCE_S = 240.0


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user without any W&B settings."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "cache"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / "config"))
    return home


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackWandb]:
    with loopback_wandb() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        yield server


def _mirror(run: RunFolder, *, finished: bool = True) -> WandbProcess:
    process = WandbProcess(run, _DESTINATION, online=True)
    process.end(finished=finished, patience_s=_PATIENCE_S)
    return process


def _log(run: RunFolder, **settings: Any) -> str:
    """What a user reads of a run that is mirrored by the logger."""
    console = Console(file=io.StringIO(), width=1000)
    with WandbLogger(run, console, project="kiln", patience_s=_PATIENCE_S, **settings):
        pass
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_server_gets_curves_scores_mistakes_and_the_model_with_its_lineage(
    server: LoopbackWandb, tmp_path: Path
) -> None:
    run = write_run(tmp_path / "run")
    process = _mirror(run)
    assert process.state == "done", (run.path / "wandb" / "mirror.log").read_text()
    assert [server.history[step]["val/accuracy"] for step in (10, 20, 30)] == [0.1, 0.2, 0.3]
    # Samples at 5 and 10 s fall into the first epoch, which ended after 10 s.
    assert server.history[10]["system/cpu_percent"] == 75
    assert server.summary["test/accuracy"] == 0.75
    (request,) = server.runs.values()
    assert request["project"] == "kiln"
    assert request["displayName"] == "run"
    assert json.loads(request["config"])["optimizer"]["value"] == {"lr": 0.5}
    images = [name for name in server.files if name.startswith("media/images/")]
    assert any("worst_mistakes" in name for name in images)
    assert any("plots/learning_curves" in name for name in images)
    assert server.history[30]["worst_mistakes"]["captions"] == ["01 cat as dog 97%"]
    assert "confusion_matrix_table" in server.history[30]
    lineage = json.loads(server.artifacts["model-small"]["metadata"])
    assert lineage["git_revision"] == "c0ffee"
    assert lineage["config_digest"] == "c0f1"
    assert lineage["dataset_digest"] == "da7a"
    assert server.files["artifacts/model.onnx"] == b"the model"
    assert server.used == ["artifact-dataset"]
    assert server.exit_code == 0


def test_mirroring_again_continues_the_same_run_and_repeats_no_row(
    server: LoopbackWandb, tmp_path: Path
) -> None:
    run = write_run(tmp_path / "run", epochs=2, finished=False)
    assert _mirror(run, finished=False).state == "done"
    assert server.exit_code == 1  # broken, as far as anyone knows
    sent, before = set(server.history), server.rows
    write_run(tmp_path / "longer", epochs=3).metrics.rename(run.metrics)
    assert _mirror(run, finished=False).state == "done"
    assert len(server.runs) == 1
    assert set(server.history) - sent == {30}
    assert server.rows == before + 1


def test_offline_everything_stays_inside_the_run_folder(home: Path, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    said = _log(run, mode="auto")
    assert f"offline, in {run.path / 'wandb'}; send it later: bazel run //ml:wandb_sync" in said
    assert list(run.path.glob("wandb/offline-run-*/run-*.wandb"))
    assert not [path for path in home.rglob("*") if "wandb" in path.name]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home", "run"]


def test_without_a_key_online_becomes_offline_and_says_so(tmp_path: Path) -> None:
    said = _log(write_run(tmp_path / "run", finished=False), mode="online")
    assert "no key in WANDB_API_KEY or ~/.netrc, so it stays offline" in said


@pytest.mark.parametrize("accepts", [True, False], ids=["hangs", "refuses"])
def test_a_server_that_does_not_answer_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, accepts: bool
) -> None:
    monkeypatch.setattr(wandb_logger, "_ANSWER_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        if not accepts:
            silent.close()
        run = write_run(tmp_path / "run")
        said = _log(run, mode="online")
    assert "no answer from the server; send it later" in said
    assert not (run.path / "wandb" / "synced.json").exists()


@pytest.mark.parametrize("key", ["f" * 40, "short"], ids=["wrong", "malformed"])
def test_a_key_that_is_refused_is_named_as_the_reason(
    server: LoopbackWandb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", key)
    said = _log(write_run(tmp_path / "run"), mode="online")
    assert "key" in said.lower()
    assert "send it later: bazel run //ml:wandb_sync" in said
    assert server.history == {}


def test_an_error_of_the_training_passes_through(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", finished=False)
    console = Console(file=io.StringIO())
    logger = WandbLogger(run, console, project="kiln", patience_s=_PATIENCE_S, mode="offline")
    with pytest.raises(ZeroDivisionError), logger:
        raise ZeroDivisionError
