"""Completion of ``bazel run //ml:train`` in bash."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ml.commands.train import prints_completion
from tests.helpers.program import in_shell


@pytest.fixture
def script(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> str:
    """The script for a workspace whose built program is the one under test."""
    program = tmp_path / "bazel-bin" / "ml" / "commands" / "train"
    program.parent.mkdir(parents=True)
    program.write_text(f'#!/bin/sh\nexec {in_shell("ml.commands.train")} "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("BUILD_WORKSPACE_DIRECTORY", str(tmp_path))
    assert prints_completion(["-sc", "install=bash"])
    return capsys.readouterr().out


def _complete(script: str, line: str, *, before: str = "") -> list[str]:
    """What bash is offered for a line with the cursor at its end."""
    asked = f"""
        {before}
        {script}
        COMP_LINE={line!r}; COMP_POINT=${{#COMP_LINE}}
        _kiln_train bazel
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(
        ["bash", "--norc", "-c", asked],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.split()


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("bazel run //ml:train optim", ["optimizer=", "optimizer."]),
        ("./tools/bazel run //ml:train -- optimizer=", ["adamw", "muon", "sgd"]),
        ("bazel run -c opt //ml:train seed=1 debug=o", ["overfit"]),
        ("bazel run //ml:train trainer.max_e", ["trainer.max_epochs="]),
    ],
)
def test_groups_options_and_values_are_offered(script: str, line: str, offered: list[str]) -> None:
    assert sorted(_complete(script, line)) == sorted(offered)


def test_other_targets_are_left_to_the_completion_that_was_there(script: str) -> None:
    before = "_theirs() { COMPREPLY=(theirs); }; complete -F _theirs bazel"
    assert _complete(script, "bazel build //serve", before=before) == ["theirs"]
    assert _complete(script, "bazel build //serve") == []


def test_without_bazel_hydra_prints_completion(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BUILD_WORKSPACE_DIRECTORY", raising=False)
    assert not prints_completion(["-sc", "install=bash"])
    assert not prints_completion(["seed=1"])
