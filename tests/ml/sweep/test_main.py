"""The command as it is typed, as far as nothing is trained."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from ml.sweep.main import BAD_INPUT, main


@pytest.fixture(autouse=True)
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BUILD_WORKSPACE_DIRECTORY", str(tmp_path))
    monkeypatch.setenv("BUILD_WORKING_DIRECTORY", str(tmp_path))
    return tmp_path


def _run(*arguments: str) -> tuple[int, str]:
    console = Console(file=io.StringIO(), width=140)
    code = main(arguments, console)
    return code, console.file.getvalue()  # type: ignore[attr-defined]


def test_help_shows_examples_presets_and_settings() -> None:
    code, text = _run("--help")
    assert code == 0
    for part in ("sweep=smoke", "tag(log,interval(1e-4,1))", "base, default, latency, smoke"):
        assert part in text
    assert "n_trials: 20 #" in text  # with the comment that explains it


def test_cfg_shows_the_plan_and_hides_the_password(workspace: Path) -> None:
    address = "postgresql+psycopg://me:secret@host/db"
    code, text = _run("--cfg", "sweep=smoke", f"sweep.storage={address}")
    assert code == 0
    assert "n_trials: 50" in text
    assert "maximize val/accuracy" in text
    assert "secret" not in text
    assert not (workspace / "multirun").exists()


def test_configurations_of_another_folder_can_be_chosen(workspace: Path) -> None:
    (workspace / "mine" / "sweep").mkdir(parents=True)
    (workspace / "mine" / "experiment").mkdir()
    text = "# @package _global_\nname: tiny\nwarmup: 0.25\n"
    (workspace / "mine" / "experiment" / "tiny.yaml").write_text(text)
    text = "defaults: [base, _self_]\nname: tiny\nspace: {label_smoothing: 'interval(0,0.1)'}\n"
    (workspace / "mine" / "sweep" / "tiny.yaml").write_text(text)
    code, shown = _run("--config-dir", "mine", "--cfg", "sweep=tiny", "experiment=tiny")
    assert code == 0
    assert "label_smoothing: interval(0,0.1)" in shown


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--dashboard", "sweep=smoke"], "nothing of this sweep was tried yet"),
        (["--dashboard", "--port", "http", "sweep=smoke"], "--port http: expected a number"),
        (["--nonsense"], "--nonsense: unknown option"),
        (["--config-dir", "gone"], "there is no such folder"),
        (["sweep=smoke", "sweep.n_trials=0"], "expected a number from 1 on"),
        (["sweep=smoke", "sweep.storage=nonsense"], "cannot be used"),
    ],
)
def test_bad_input_starts_nothing(
    arguments: list[str], complaint: str, workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _ = _run(*arguments)
    assert code == BAD_INPUT
    errors = capsys.readouterr().err
    assert complaint in errors
    assert errors.endswith("Nothing was trained.\n")
    assert not (workspace / "multirun").exists()


def test_an_experiment_that_would_be_replaced_is_named_before_anything_starts(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = workspace / "configs" / "experiment" / "smoke_best.yaml"
    own.parent.mkdir(parents=True)
    own.write_text("name: mine\n")
    code, _ = _run("sweep=smoke")
    assert code == BAD_INPUT
    assert str(own) in capsys.readouterr().err
    assert own.read_text() == "name: mine\n"
    assert not (workspace / "multirun").exists()
