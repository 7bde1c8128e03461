"""tools/mutants: mistakes are made one at a time, and the tests are asked of each."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tools.mutants.main import _wait, mutants

SOURCE = """\
def larger(a: int | None, b: int) -> int:
    return a if a is not None and a > b else b
"""
LOOP = """\
def last(steps: int) -> int:
    while steps > 0:
        steps -= 1
    return steps
"""
TESTS = """\
from some.module import larger


def test_larger() -> None:
    assert larger(2, 1) == 2
    assert larger(None, 1) == 1
"""


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A repository with one module and its tests."""
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    for name, text in {
        "some/module.py": SOURCE,
        "tests/some/test_module.py": TESTS,
        "pyproject.toml": "[tool.pytest]\naddopts = []\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def run(clone: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "BUILD_WORKSPACE_DIRECTORY": str(clone),
        "BUILD_WORKING_DIRECTORY": str(clone),
    }
    command = [sys.executable, "-m", "tools.mutants.main", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def changes(source: str) -> list[str]:
    """Of every mutant, the lines that it has in place of ours."""
    return [
        line[1:].strip()
        for mutant in mutants("m.py", source)
        for line in mutant.diff.splitlines()
        if line.startswith("+") and not line.startswith("+++")
    ]


def test_a_mutant_is_the_module_with_one_mistake() -> None:
    assert changes("def f(a: int | None) -> int | str:\n    return a + 1\n") == [
        "return a - 1",
        "return a + 2",
        "return a + 0",
    ]
    assert changes("def f(a, b):\n    return a < b\n") == ["return a <= b", "return a >= b"]
    assert changes("try:\n    f()\nexcept (a.B, c.D):\n    pass\n") == []


def test_the_program_counts_what_the_tests_notice(clone: Path) -> None:
    done = run(clone, "some/module.py", "--json", "report.json")
    assert done.returncode == 0, done.stderr
    report = json.loads((clone / "report.json").read_text())
    of = {
        r["diff"].split("\n+")[-1].split("\n")[0].strip(): r["outcome"] for r in report["results"]
    }
    assert of["return a if a is not None and a <= b else b"] == "killed"
    assert of["return a if a is not None and a >= b else b"] == "survived"
    assert of["return a if a is not None or a > b else b"] == "killed"
    assert "a >= b else b" in done.stdout
    killed = sum(outcome != "survived" for outcome in of.values())
    assert f"{100 * killed / report['made']:.1f} %" in done.stdout.splitlines()[-1]
    assert (clone / "some/module.py").read_text() == SOURCE


def test_a_sample_can_be_drawn_and_its_survivors_tried_again(clone: Path) -> None:
    run(clone, "some/module.py", "--json", "all.json")
    survivors = [
        r["diff"]
        for r in json.loads((clone / "all.json").read_text())["results"]
        if r["outcome"] == "survived"
    ]
    run(clone, "some/module.py", "--again", "all.json", "--json", "again.json")
    again = json.loads((clone / "again.json").read_text())["results"]
    assert [r["diff"] for r in again] == survivors
    done = run(clone, "some/module.py", "--sample", "1", "--seed", "3", "--fail-under", "1.01")
    assert "1 to try" in done.stdout
    assert done.returncode == 1


def test_tests_that_take_long_are_spoken_of(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("common.terminal.EVERY_S", 0.01)
    child = os.fork()
    if child == 0:
        time.sleep(1)
        os._exit(0)
    assert _wait(child, 60) == 0
    assert "still running the tests" in capfd.readouterr().err


def test_a_mistake_that_hangs_the_tests_is_ended_and_counts(clone: Path) -> None:
    (clone / "some/module.py").write_text(LOOP)
    (clone / "tests/some/test_module.py").write_text(
        "from some.module import last\n\n\ndef test_it():\n    assert last(3) == 0\n"
    )
    done = run(clone, "some/module.py", "--timeout-s", "2", "--json", "report.json")
    report = json.loads((clone / "report.json").read_text())
    late = [
        r["diff"].split("\n+")[-1].split("\n")[0]
        for r in report["results"]
        if r["outcome"] == "timed out"
    ]
    assert [line.strip() for line in late] == ["steps -= 0"]
    assert done.returncode == 0


def test_tests_that_fail_anyway_say_nothing_of_mistakes(clone: Path) -> None:
    (clone / "tests/some/test_module.py").write_text("def test_it():\n    assert not 'sound'\n")
    done = run(clone, "some/module.py")
    assert done.returncode == 2
    assert "assert not 'sound'" in done.stderr
    assert run(clone, "some/other.py").returncode == 2
