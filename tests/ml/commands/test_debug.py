"""The debug presets: each answers its question, and leaves what it says it leaves."""

import json
from pathlib import Path

import pytest

from tests.ml.data.small_dataset import write_dataset
from tests.ml.workspace import Workspace

_SMALL = [
    "data.validation_size=50",
    "data.batch_size=10",
    "data.sizes=[20]",
    "data.size_milestones=[]",
    "network.widths=[8,8,8]",
    "trainer.accelerator=cpu",
]


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path, write_dataset(tmp_path / "dataset", train=300, test=100))


def test_a_fast_development_run_keeps_nothing(workspace: Workspace) -> None:
    done = workspace.run(*_SMALL, "debug=fdr")
    assert done.returncode == 0, done.stderr
    assert "One batch trained and one validated" in done.stdout
    assert workspace.runs == []


def test_a_sound_network_learns_the_overfit_preset_by_heart(workspace: Workspace) -> None:
    done = workspace.run(_SMALL[0], "network.widths=[32,32,32]", "trainer=cpu", "debug=overfit")
    assert done.returncode == 0, done.stderr
    (run,) = workspace.runs
    assert json.loads((run / "summary.json").read_text())["train/accuracy"] > 0.99


def test_the_profile_preset_leaves_a_table_of_operators_and_a_trace(workspace: Workspace) -> None:
    done = workspace.run(*_SMALL, "debug=profile")
    assert done.returncode == 0, done.stderr
    (run,) = workspace.runs
    table = (run / "profile.txt").read_text()
    assert "convolution" in table
    assert "Self CPU" in table
    assert json.loads((run / "profile_trace.json").read_text())["traceEvents"]


def test_the_limit_preset_takes_the_whole_path_on_few_batches(workspace: Workspace) -> None:
    done = workspace.run(*_SMALL, "debug=limit", "data.batch_size=20")
    assert done.returncode == 0, done.stderr
    (run,) = workspace.runs
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [4, 8]
    assert (run / "model.onnx").is_file()
    assert (run / "report.html").is_file()
