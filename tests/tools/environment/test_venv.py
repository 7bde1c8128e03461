"""The environment for editors, made by the real uv from wheels of the test's own."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from common.programs import wheel_program
from tools.environment.main import VenvError, main, make


def wheel(folder: Path, name: str) -> str:
    """A package that says its name; the line of a lock for it."""
    folder.mkdir(exist_ok=True)
    path, info = folder / f"{name}-1.0-py3-none-any.whl", f"{name}-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}.py", f"NAME = {name!r}\n")
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    return f"{name}==1.0 --hash=sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}\n"


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """With a module of its own and a lock of one package, and no index in reach."""
    for name, value in {
        "UV_OFFLINE": "1",
        "UV_FIND_LINKS": str(tmp_path / "wheels"),
        "KILN_CACHE": str(tmp_path / "cache"),
        "KILN_PYTHON": sys._base_executable,  # type: ignore[attr-defined]
        "UV_NO_CONFIG": "1",
    }.items():
        monkeypatch.setenv(name, value)
    folder = tmp_path / "workspace"
    (folder / "ml").mkdir(parents=True)
    (folder / "ml/ours.py").write_text("NAME = 'ours'\n")
    (folder / "requirements_lock.txt").write_text(wheel(tmp_path / "wheels", "locked"))
    return folder


def says(python: Path, code: str) -> str:
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, cwd="/")
    return done.stdout.strip() or done.stderr.strip().splitlines()[-1]


def test_it_holds_the_lock_and_our_code(workspace: Path) -> None:
    python = make(workspace / ".venv", workspace, wheel_program("uv"))
    assert says(python, "import locked; print(locked.NAME)") == "locked"
    assert says(python, "from ml import ours; print(ours.NAME)") == "ours"


def test_again_it_follows_the_lock_and_drops_what_is_no_longer_in_it(workspace: Path) -> None:
    make(workspace / ".venv", workspace, wheel_program("uv"))
    (workspace / "requirements_lock.txt").write_text(wheel(workspace.parent / "wheels", "other"))
    python = make(workspace / ".venv", workspace, wheel_program("uv"))
    assert says(python, "import other; print(other.NAME)") == "other"
    assert "ModuleNotFoundError" in says(python, "import locked")


def test_a_package_with_another_hash_is_refused(workspace: Path) -> None:
    lock = workspace / "requirements_lock.txt"
    lock.write_text(f"locked==1.0 --hash=sha256:{'0' * 64}\n")
    with pytest.raises(VenvError, match="uv pip sync"):
        make(workspace / ".venv", workspace, wheel_program("uv"))


def test_the_command_makes_it_where_it_was_asked_to(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("BUILD_WORKSPACE_DIRECTORY", str(workspace))
    monkeypatch.setenv("BUILD_WORKING_DIRECTORY", str(workspace.parent))
    assert main(["--path=mine"]) == 0
    assert f"venv: {workspace.parent}/mine/bin/python" in capsys.readouterr().out
