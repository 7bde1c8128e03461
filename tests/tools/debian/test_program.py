"""Programs from Debian packages."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from common.programs import ProgramMissing, find_program, require_program


@pytest.mark.parametrize(
    ("name", "arguments", "answer"),
    [
        ("crane", ["--help"], "Crane is a tool for managing container images"),
        ("docker-registry", ["--version"], "registry"),
        ("prometheus", ["--version"], "prometheus, version 3"),
        ("promtool", ["--version"], "promtool, version 3"),
    ],
)
def test_the_program_of_a_package_runs(name: str, arguments: list[str], answer: str) -> None:
    done = subprocess.run([require_program(name), *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert answer in done.stdout + done.stderr


def test_the_unpacked_program_is_taken_before_the_one_on_path(tmp_path: Path) -> None:
    program = tmp_path / "_main~debian~debian_coreutils" / "root" / "usr" / "bin" / "ls"
    program.parent.mkdir(parents=True)
    program.touch()
    assert find_program("ls", tmp_path) == program


def test_path_serves_where_there_is_no_apt(tmp_path: Path) -> None:
    assert find_program("ls", tmp_path).name == "ls"


def test_a_missing_program_is_named_with_its_install_command(tmp_path: Path) -> None:
    note = tmp_path / "_main+debian+debian_some_tools" / "missing" / "no-such-program"
    note.parent.mkdir(parents=True)
    note.write_text("some-tools\n")
    with pytest.raises(ProgramMissing, match=r"no-such-program .*apt-get install some-tools\)"):
        find_program("no-such-program", tmp_path)
