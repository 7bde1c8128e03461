"""Coverage under Bazel: our files alone, by their names in the repository, children included."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tools.coverage import lcov

ROOT = Path(__file__).absolute().parents[2]

MEASURED = """\
import os, subprocess, sys
from pathlib import Path
from tools.coverage.measure import measured

root, scratch = Path(sys.argv[1]), Path(sys.argv[2])
sys.path.insert(0, str(root))
with measured(root, scratch):
    import serve.sign
    serve.sign.sign(3)
    subprocess.run([sys.executable, str(root / "serve" / "child.py")], check=True)
    own_path = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, str(root / "serve" / "heir.py")], env=own_path, check=True)
"""


@pytest.fixture
def runfiles(tmp_path: Path) -> Path:
    """Links to sources elsewhere, as Bazel lays them out."""
    sources = tmp_path / "workspace" / "serve"
    sources.mkdir(parents=True)
    (sources / "sign.py").write_text(
        "def sign(n):\n    if n > 0:\n        return 1\n    return -1\n"
    )
    (sources / "child.py").write_text("print('in a child')\n")
    (sources / "heir.py").write_text("print('in a child with the path of its parent')\n")
    root = tmp_path / "runfiles" / "_main"
    (root / "serve").mkdir(parents=True)
    for source in sources.iterdir():
        (root / "serve" / source.name).symlink_to(source)
    (root / "pyproject.toml").write_text("[tool.coverage.run]\nbranch = true\n")
    return root


def measure(root: Path, tmp_path: Path, manifest: str) -> dict[str, lcov.FileCoverage]:
    reports, scratch = tmp_path / "reports", tmp_path / "scratch"
    reports.mkdir()
    scratch.mkdir()
    tmp_path.joinpath("manifest").write_text(manifest)
    environ = os.environ | {
        "PYTHONPATH": os.pathsep.join(sys.path),
        "COVERAGE": "1",
        "COVERAGE_DIR": str(reports),
        "COVERAGE_MANIFEST": str(tmp_path / "manifest"),
    }
    call = [sys.executable, "-c", MEASURED, str(root), str(scratch)]
    subprocess.run(call, env=environ, cwd=root, check=True, stdout=subprocess.DEVNULL)
    report = reports / "python.dat"
    return lcov.parse(report.read_text()) if report.exists() else {}


def test_lines_branches_and_children_are_measured(runfiles: Path, tmp_path: Path) -> None:
    files = measure(
        runfiles, tmp_path, "serve/sign.py\nserve/child.py\nserve/heir.py\nexternal/x/y.py\n"
    )
    assert files["serve/child.py"].lines == {1: 1}
    assert files["serve/heir.py"].lines == {1: 1}
    assert files["serve/sign.py"].lines == {1: 1, 2: 1, 3: 1, 4: 0}
    assert (len(files["serve/sign.py"].branches), files["serve/sign.py"].branches_hit) == (2, 1)


def test_files_that_bazel_did_not_ask_for_are_left_out(runfiles: Path, tmp_path: Path) -> None:
    assert set(measure(runfiles, tmp_path, "serve/sign.py\n")) == {"serve/sign.py"}


def test_a_test_that_runs_none_of_our_code_has_an_empty_report(
    runfiles: Path, tmp_path: Path
) -> None:
    assert measure(runfiles, tmp_path, "serve/absent.py\n") == {}
