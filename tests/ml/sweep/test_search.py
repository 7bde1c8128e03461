"""Sweeps of real trainings, with workers and programs that are killed."""

import json
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import FrozenTrial

from ml.sweep.standings import outcome
from tests.ml.sweep.command import SweepWorkspace, kill_worker


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[SweepWorkspace]:
    workspace = SweepWorkspace(tmp_path)
    yield workspace
    workspace.end()


def _finished(trials: list[FrozenTrial]) -> dict[int, tuple[object, object]]:
    return {t.number: (t.value, t.params) for t in trials if outcome(t) == "finished"}


def _can_be_continued(workspace: SweepWorkspace) -> Callable[[list[FrozenTrial]], bool]:
    """Whether a trial runs that has kept an epoch."""
    return lambda trials: bool(_kept(workspace, trials))


def _kept(workspace: SweepWorkspace, trials: list[FrozenTrial]) -> list[FrozenTrial]:
    checkpoints = workspace.folder / "trials"
    return [
        trial
        for trial in trials
        if outcome(trial) == "running"
        and (checkpoints / f"{trial.number:04}" / "checkpoints" / "last.ckpt").exists()
    ]


def test_a_sweep_survives_a_killed_worker_and_a_killed_program(workspace: SweepWorkspace) -> None:
    # One of two workers dies: its trial goes on elsewhere.
    process = workspace.start("sweep.n_trials=5", "sweep.workers=2")
    victim = _kept(workspace, workspace.wait_until(_can_be_continued(workspace), process))[0]
    kill_worker(workspace.folder, victim)
    trials = workspace.wait_until(lambda trials: len(_finished(trials)) >= 2, process)
    # The whole program dies, and is started again.
    process.kill()
    process.communicate()
    known = _finished(workspace.trials())
    done = workspace.run("sweep.n_trials=5", "sweep.workers=2")
    assert done.returncode == 0, done.stderr

    trials = workspace.trials()
    assert known.items() <= _finished(trials).items()
    assert len(_finished(trials)) == 5
    assert "running" not in workspace.outcomes()
    lost = trials[victim.number]
    assert outcome(lost) == "lost"
    again = [t for t in trials if t.user_attrs.get("origin") == victim.number]
    assert [t.params for t in again if outcome(t) == "finished"] == [lost.params]
    digests = [t.user_attrs["digest"] for t in trials if outcome(t) == "finished"]
    assert len(set(digests)) == 5
    assert "Continuing" in workspace.log()  # from the epoch that the killed worker had finished
    _check_what_is_left(workspace, done)


def _check_what_is_left(workspace: SweepWorkspace, done: subprocess.CompletedProcess[str]) -> None:
    rows = json.loads((workspace.folder / "trials.json").read_text())
    best = max((row for row in rows if row["state"] == "finished"), key=lambda r: r["val/accuracy"])
    assert (workspace.folder / "report.html").is_file()
    assert str(workspace.folder / "report.html") in done.stdout
    kept = list(workspace.folder.glob("trials/*/checkpoints"))
    assert len(kept) == 3
    written = workspace.path / "configs" / "experiment" / "small_best.yaml"
    assert f"trial {best['trial']}: val/accuracy" in written.read_text()
    again = workspace.run("sweep.n_trials=5")
    assert again.returncode == 0
    assert "All trials are done already" in again.stdout
    assert len(workspace.trials()) == len(rows)


def test_ctrl_c_ends_with_130_and_says_how_to_continue(workspace: SweepWorkspace) -> None:
    process = workspace.start("sweep.n_trials=3")
    workspace.wait_until(_can_be_continued(workspace), process)
    process.send_signal(signal.SIGINT)
    stopped = process.finish(500)
    assert stopped.returncode == 130
    assert "Continue with the same command:\n  bazel run //ml:sweep sweep=base" in stopped.stderr
    assert "Traceback" not in stopped.stderr
    assert workspace.outcomes()[-1] == "waiting"
    assert workspace.trials()[-1].user_attrs["attempt"] == 0


@pytest.mark.filterwarnings("default")  # as in a worker, which shows none
def test_what_was_tried_is_not_trained_again_and_a_tried_space_ends_the_sweep(
    workspace: SweepWorkspace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    space = ("label_smoothing=0.1,0.2", "sweep.n_trials=30", "trainer.max_epochs=1")
    assert workspace.run_here(monkeypatch, *space) == 0
    trials = workspace.trials()
    trained = [t for t in trials if "reused" not in t.user_attrs]
    assert {t.params["label_smoothing"] for t in trained} == {"0.1", "0.2"}
    assert len(trained) == 2
    assert capsys.readouterr().out.count("\nTraining ") == 2
    for trial in trials:
        same = trials[trial.user_attrs.get("reused", trial.number)]
        assert trial.value == same.value


def test_a_sweep_of_errors_stops_and_says_why(workspace: SweepWorkspace) -> None:
    done = workspace.run("data.batch_size=int(interval(400,500))", "sweep.max_failures=2")
    assert done.returncode == 1
    assert "2 trials in a row failed" in done.stderr
    assert "the 250 training images" in done.stderr
    assert workspace.outcomes()[:2] == ["failed", "failed"]


@pytest.mark.filterwarnings("default")  # as in a worker, which shows none
def test_accuracy_is_weighed_against_the_latency_of_the_exported_model(
    workspace: SweepWorkspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = workspace.run_here(
        monkeypatch,
        "network.widths=[8,8,8],[64,64,64]",
        *("label_smoothing=0.1", "sweep.sampler=grid", "trainer.max_epochs=1"),
        *("sweep.minimize=[latency_ms,model_bytes]", "sweep.pruner=auto"),
    )
    assert code == 0
    rows = {row["network.widths"]: row for row in _rows(workspace)}
    small, large = rows["[8,8,8]"], rows["[64,64,64]"]
    assert small["latency_ms"] > 0
    assert small["model_bytes"] < large["model_bytes"]
    assert "Pareto front" in (workspace.folder / "report.html").read_text()


def _rows(workspace: SweepWorkspace) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads((workspace.folder / "trials.json").read_text())
    return [row for row in rows if row["state"] == "finished"]


def test_a_missing_dataset_is_explained(
    workspace: SweepWorkspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    (workspace.path / "dataset" / "train.bin").unlink()
    done = workspace.run()
    assert done.returncode == 2
    assert "the dataset cannot be read" in done.stderr
    assert "Traceback" not in done.stderr
