"""A training that is mirrored to W&B, with a server and with one that never answers."""

import json
import socket
from pathlib import Path

import pytest

from tests.ml.data.small_dataset import write_dataset
from tests.ml.tracking.loopback_wandb import KEY, loopback_wandb
from tests.ml.workspace import Workspace

_SMALL = [
    "logger=wandb",
    "logger.wandb.mode=online",
    "data.validation_size=50",
    "data.batch_size=50",
    "data.sizes=[20]",
    "data.size_milestones=[]",
    "network.widths=[8,8,8]",
    "trainer.accelerator=cpu",
    "trainer.max_epochs=2",
]


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    return Workspace(tmp_path, write_dataset(tmp_path / "dataset", train=200, test=50))


def test_the_server_gets_what_the_run_folder_holds(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    with loopback_wandb() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        done = workspace.run(*_SMALL, "logger.wandb.patience_s=250")
        assert done.returncode == 0, done.stderr
        (run,) = workspace.runs
        assert f"W&B: {server.url}/founder/kiln/runs/" in done.stdout
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [server.history[row["step"]]["val/loss"] for row in rows] == [
        pytest.approx(row["val/loss"]) for row in rows
    ]
    assert server.files["artifacts/model.onnx"] == (run / "model.onnx").read_bytes()
    provenance = json.loads((run / "provenance.json").read_text())
    lineage = json.loads(server.artifacts["model-default"]["metadata"])
    assert lineage["config_digest"] == provenance["config_digest"]
    assert lineage["dataset_digest"] == provenance["dataset_digest"]
    assert lineage["version"] == json.loads((run / "summary.json").read_text())["model_version"]


def test_a_server_that_hangs_does_not_stop_the_training(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        done = workspace.run(*_SMALL, "conclude=false")
    assert done.returncode == 0, done.stderr
    (run,) = workspace.runs
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 2
    assert "W&B: no answer from the server; send it later" in done.stdout
