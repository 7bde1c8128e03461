"""The one table of all checks, over a small clone with linters that say what the test wants."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from common.programs import tracked_files
from tools.lint import lint

RULES = Path("pyproject.toml").absolute()
SAYS = "#!/bin/sh\necho {name} looked at $#\nexit {code}\n"


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One good Python file, and a program for each of our own checks."""
    workspace = tmp_path / "clone"
    workspace.mkdir()
    subprocess.run(["git", "init", "-q"], cwd=workspace, check=True)
    (workspace / "good.py").write_text("x = 1\n")
    for name in lint.PROGRAMS:
        program(tmp_path, name, 0)
    monkeypatch.setenv("BUILD_WORKSPACE_DIRECTORY", str(workspace))
    monkeypatch.chdir(workspace)
    return workspace


def program(folder: Path, name: str, code: int) -> None:
    (folder / name).write_text(SAYS.format(name=name, code=code))
    (folder / name).chmod(0o755)


def run(clone: Path, *arguments: str) -> int:
    programs = [f"--{name}={clone.parent / name}" for name in lint.PROGRAMS]
    return lint.main([*programs, "--fast", *arguments])


def test_a_clean_clone_is_told_line_by_line(
    clone: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(clone) == 0
    told = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in told] == [
        ["ok", name] for name in ("ruff", "layout", "buildifier", "secrets", "workflows")
    ]


def test_a_fault_that_ruff_finds_fails_and_is_shown(
    clone: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (clone / "bad.py").write_text("import os\n")
    assert run(clone) == 1
    assert "F401" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("code", "rule"),
    [
        ("import subprocess\n\nsubprocess.run('ls ' + x, shell=True)\n", "S602"),
        ("import hashlib\n\nhashlib.md5(b'')\n", "S324"),
        ("eval(x)\n", "S307"),
        ("import requests\n\nrequests.get('https://a', verify=False, timeout=1)\n", "S501"),
        ("import yaml\n\nyaml.load(x)\n", "S506"),
        ("from urllib.request import urlopen\n\nurlopen(url)\n", "S310"),
    ],
)
def test_unsafe_code_is_found(
    clone: Path, code: str, rule: str, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(RULES, clone / "pyproject.toml")
    (clone / "bad.py").write_text(code)
    assert run(clone, "--only=ruff") == 1
    assert rule in capsys.readouterr().out


@pytest.mark.parametrize(
    ("excuse", "lines"),
    [("noqa: S307 # of our own making", []), ("noqa: S307", [1]), ("noqa: S307 #", [1])],
)
def test_an_excuse_of_unsafe_code_needs_a_reason(
    tmp_path: Path, excuse: str, lines: list[int]
) -> None:
    (tmp_path / "a.py").write_text(f"eval(x)  # {excuse}\n")
    assert lint.excused_without_reason(str(tmp_path / "a.py")) == lines


def test_files_are_formatted_and_fixed(clone: Path) -> None:
    bad = clone / "bad.py"
    bad.write_text("import os\nx  =  1\n")
    assert lint.main(["--fix", f"--buildifier={clone.parent / 'buildifier'}"]) == 0
    assert bad.read_text() == "x = 1\n"


def test_the_python_files_of_a_build_are_tested(clone: Path) -> None:
    shutil.copy(RULES, clone / "pyproject.toml")
    assert lint.main(["--python", "good.py"]) == 0
    excuse = "noqa: S307"  # without the reason that this project's own files are checked for
    (clone / "bad.py").write_text(f"eval(x)  # {excuse}\n")
    assert lint.main(["--python", "good.py", "bad.py"]) == 1


def test_one_failing_check_fails_all_and_the_others_still_run(
    clone: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    program(clone.parent, "secrets", 1)
    assert run(clone) == 1
    told = capsys.readouterr().out
    assert "!!  secrets" in told
    assert "secrets looked at 1" in told
    assert "ok  workflows" in told


def test_a_program_that_could_not_be_had_is_told_and_does_not_fail(
    clone: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (clone.parent / "buildifier").write_text("npm is not on PATH\n")
    (clone.parent / "buildifier").chmod(0o644)
    assert run(clone) == 0
    assert capsys.readouterr().out.splitlines()[2].split()[:2] == ["--", "buildifier"]


def test_one_check_alone(clone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(clone, "--only=secrets") == 0
    assert len(capsys.readouterr().out.splitlines()) == 1
    assert run(clone, "--only=spelling") == 2


def test_names_outside_ascii_are_checked_and_ignored_files_are_not(clone: Path) -> None:
    for name in ("größe.py", "notes.md", "ignored.py"):
        (clone / name).touch()
    (clone / ".gitignore").write_text("ignored.py\n")
    assert set(tracked_files("*.py")) == {"good.py", "größe.py"}
    assert set(tracked_files()) == {"good.py", "größe.py", "notes.md", ".gitignore"}
