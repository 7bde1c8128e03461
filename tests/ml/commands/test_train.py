"""The training entry as a user meets it: one process per run, its exit code, its files."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ml.artifact.artifact import load_artifact
from ml.commands import train
from ml.registry.registry import Registry
from ml.registry.submission import read_submission
from ml.runs.loading import open_trained
from ml.training.config import ConfigError
from ml.training.launch import BAD_INPUT, INTERRUPTED, Job
from tests.ml.data.small_dataset import write_dataset
from tests.ml.workspace import SMALL, Workspace

_SECONDS = ("elapsed_s", "images_per_s")


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path, write_dataset(tmp_path / "dataset", train=300, test=100))


def _metrics(run: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: row[key] for key in row if key not in _SECONDS} for row in rows]


def _wait_for_epochs(workspace: Workspace, count: int, process: subprocess.Popen[str]) -> Path:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        for run in workspace.runs:
            done = len(_metrics(run)) if (run / "metrics.jsonl").exists() else 0
            if done >= count and (run / "checkpoints" / "last.ckpt").exists():
                return run
        time.sleep(0.02)
    raise AssertionError(f"no epoch {count}: {process.communicate()[1]}")


def test_a_run_leaves_model_metrics_plots_and_summary(finished: Workspace) -> None:
    (run,) = finished.runs
    summary = json.loads((run / "summary.json").read_text())
    assert load_artifact(run / "model.onnx").metadata.version == summary["model_version"]
    assert [row["epoch"] for row in _metrics(run)] == [1, 2, 3]
    assert summary["test"]["images"] == 100
    assert summary["val/accuracy"] == max(row["val/accuracy"] for row in _metrics(run))
    assert list((run / "plots").glob("*"))
    assert (run / "report.html").is_file()
    for path in (run / "model.onnx", run / "report.html", run / "summary.json"):
        assert str(path) in finished.printed


def test_a_finished_run_gives_back_the_network_that_it_exported(
    finished: Workspace,
) -> None:
    (run,) = finished.runs
    images = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    expected = load_artifact(run / "model.onnx").predict(images).probabilities
    answers = open_trained(run, dataset=finished.path / "dataset").answer(images)
    np.testing.assert_allclose(answers, expected, atol=1e-5)


def test_a_run_that_is_not_to_conclude_reads_no_test_set_and_exports_nothing(
    workspace: Workspace,
) -> None:
    (workspace.path / "dataset" / "test.bin").write_bytes(b"")
    done = workspace.run(*SMALL, "trainer.max_epochs=1", "conclude=false")
    assert done.returncode == 0, done.stderr
    (run,) = workspace.runs
    summary = json.loads((run / "summary.json").read_text())
    assert summary["val/accuracy"] == _metrics(run)[0]["val/accuracy"]
    assert "test" not in summary
    assert not (run / "model.onnx").exists()
    assert "not exported (conclude=false)" in done.stdout


def test_it_learns(finished: Workspace) -> None:
    (run,) = finished.runs
    accuracy = json.loads((run / "summary.json").read_text())["test"]["accuracy"]
    assert (
        accuracy > 0.25
    )  # guessing a hundred images of ten classes exceeds this once in 10^5 runs


def test_every_epoch_leaves_a_checkpoint_to_continue_from_even_if_it_is_not_the_best(
    workspace: Workspace,
) -> None:
    falls = (  # so the first epoch stays the best
        "monitor=own/falling",
        "callbacks.checkpoint.mode=max",
        "+callbacks.more.falling._target_=tests.ml.commands.falling.Falling",
    )
    done = workspace.run(*SMALL, *falls, "conclude=false")
    assert done.returncode == 0, done.stderr
    checkpoints = workspace.runs[0] / "checkpoints"
    best, last = (
        torch.load(checkpoints / name, weights_only=True) for name in ("best.ckpt", "last.ckpt")
    )
    assert (best["epoch"], last["epoch"]) == (0, 2)


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT])
def test_a_broken_run_continues_to_the_very_bytes_of_the_unbroken_one(
    finished: Workspace, workspace: Workspace, end: signal.Signals
) -> None:
    process = workspace.start(*SMALL)
    run = _wait_for_epochs(workspace, 1, process)
    process.send_signal(end)
    _, errors = process.communicate(timeout=60)
    assert not (run / "summary.json").exists()
    if end == signal.SIGINT:
        assert process.returncode == INTERRUPTED
        assert f"resume={run}" in errors
    done = workspace.run(*SMALL, "resume=auto")
    assert done.returncode == 0, done.stderr
    assert workspace.runs == [run]
    assert "Continuing" in done.stdout
    (reference,) = finished.runs
    assert _metrics(run) == _metrics(reference)
    assert (run / "model.onnx").read_bytes() == (reference / "model.onnx").read_bytes()


def test_a_repeated_run_gives_the_same_metrics_and_model_in_a_new_folder(
    finished: Workspace,
) -> None:
    (original,) = finished.runs
    second = finished.sibling("again")
    done = second.run("--rerun", str(original))
    assert done.returncode == 0, done.stderr
    (run,) = second.runs
    assert _metrics(run) == _metrics(original)
    assert (run / "model.onnx").read_bytes() == (original / "model.onnx").read_bytes()
    assert (run / "config.yaml").read_bytes() == (original / "config.yaml").read_bytes()
    assert "Warning" not in done.stdout
    provenance = json.loads((run / "provenance.json").read_text())
    assert provenance["rerun_of"] == str(original)
    assert (
        provenance.items()
        >= {
            key: value
            for key, value in json.loads((original / "provenance.json").read_text()).items()
            if key != "started"
        }.items()
    )


def test_a_named_run_is_not_changed_by_overrides(workspace: Workspace) -> None:
    (workspace.path / "runs" / "x").mkdir(parents=True)
    (workspace.path / "runs" / "x" / "config.yaml").write_text("seed: 0")
    done = workspace.run("resume=runs/x", "seed=1")
    assert done.returncode == BAD_INPUT
    assert " seed=1" in done.stderr


@pytest.mark.parametrize(
    ("override", "complaint"),
    [
        ("trainer.max_epoch=3", "Key 'max_epoch' not in 'TrainerConfig'"),
        ("trainer.max_epochs=many", "Value 'many' of type 'str' could not be converted to Integer"),
        ("trainer.max_epochs=0", "trainer.max_epochs=0: expected a value at least 1"),
        ("callbacks.early_stoping=null", "Key 'early_stoping' not in 'CallbacksConfig'"),
        ("trainer.accelerator=quantum", "trainer.accelerator=quantum: expected a value of auto,"),
        ("experiment=smok", "Could not find 'experiment/smok'"),
        ("experiment=smok", "experiment=smok: did you mean experiment=smoke?"),
        ("optimiser=sgd", "optimiser: did you mean optimizer?"),
        ("data.batchsize=10", "data.batchsize: did you mean data.batch_size?"),
        ("paths.runs=/proc/nowhere", "FileNotFoundError"),  # where nothing can be written
        ("data.validation_size=7", "validation_size must be a share"),
        ("data.batch_size=100000", "data.batch_size=100000 is more than"),
        ("trainer.accumulate_grad_batches=1000", "expected at most the"),
        ("callbacks.averaging.decay=0.5", "callbacks.averaging.decay"),
        ("callbacks.early_stopping.monitor=val/nothing", "expected one of val/accuracy"),
        ("resume=runs/gone", "there is no such folder"),
        ("--rerun=runs/gone", "rerun=runs/gone: there is no folder"),
        ("--rerun", "--rerun needs a run folder"),
    ],
)
def test_bad_input_is_explained_and_nothing_is_trained(
    workspace: Workspace,
    override: str,
    complaint: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(workspace.path)
    for name, value in workspace.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(Job, "has_begun", False)  # by another test of this process
    argv = ["train", "budget=null", SMALL[0], "data.batch_size=10", override]
    monkeypatch.setattr(sys, "argv", argv)
    with pytest.raises(SystemExit) as leaving:
        train.run_entry()
    errors = capsys.readouterr().err
    assert leaving.value.code == BAD_INPUT, errors
    assert complaint in errors
    assert "Traceback" not in errors
    assert workspace.runs == []


def test_bad_input_is_explained_beside_a_debugger_as_well(workspace: Workspace) -> None:
    program = "runpy.run_module('ml.commands.train', run_name='__main__')"
    traced = f"import runpy, sys; sys.settrace(lambda *_: None); {program}"
    done = subprocess.run(
        [sys.executable, "-c", traced, "trainer.max_epoch=3"],
        cwd=workspace.path,
        env=workspace.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == BAD_INPUT, done.stderr
    assert "Key 'max_epoch' not in 'TrainerConfig'" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_damaged_checkpoint_is_named_and_kept(workspace: Workspace) -> None:
    run = _wait_for_epochs(workspace, 1, process := workspace.start(*SMALL))
    process.kill()
    process.communicate()
    checkpoint = run / "checkpoints" / "last.ckpt"
    checkpoint.write_bytes(damaged := checkpoint.read_bytes()[:1000])
    done = workspace.run(*SMALL, "resume=auto")
    assert done.returncode == BAD_INPUT
    assert f"{checkpoint} is damaged" in done.stderr
    assert checkpoint.read_bytes() == damaged


def test_a_crash_after_the_start_exits_with_one_and_says_what_happened(
    workspace: Workspace,
) -> None:
    own = "+callbacks.more.own._target_=tests.ml.commands.falling.Falling"
    done = workspace.run(*SMALL, own, "callbacks.early_stopping.monitor=val/nothing")
    assert done.returncode == 1
    assert "val/nothing" in done.stderr


def test_help_names_groups_and_examples(workspace: Workspace) -> None:
    done = workspace.run("--help")
    assert done.returncode == 0
    assert "debug: fdr, find_lr, limit, overfit, profile" in done.stdout
    assert "bazel run //ml:train resume=auto" in done.stdout


def test_weights_to_start_from_are_found_by_file_folder_and_registered_version(
    finished: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (run,) = finished.runs
    runs, weights = run.parent, run / "network.pt"
    monkeypatch.setenv("KILN_REGISTRY", str(tmp_path / "registry"))
    registry = Registry.open(str(tmp_path / "registry"), "me")
    manifest, _ = registry.register((run / "model.onnx").read_bytes())
    registry.promote(manifest.version, "production")
    for reference in (
        str(weights),
        f"runs/{run.name}",
        "registry:production",
        f"registry:{manifest.version[:12]}",
    ):
        assert train.initial_weights(reference, runs) == weights
    for reference in ("runs/gone", "registry:staging"):
        with pytest.raises(ConfigError, match=f"init_from={reference}"):
            train.initial_weights(reference, runs)
    with pytest.raises(ConfigError, match="the run that made it is not in"):
        train.initial_weights("registry:production", tmp_path)
    submission = read_submission(run)
    assert submission.weights
    assert registry.weights.add(manifest.version, submission.weights)
    monkeypatch.setenv("KILN_CACHE", str(tmp_path / "cache"))
    restored = train.initial_weights("registry:production", tmp_path)
    assert restored.read_bytes() == weights.read_bytes()
