from __future__ import annotations

from pathlib import Path

import pytest

from ml.data import source
from ml.data.source import Progress, SourceError, run_command


def shell(folder: Path, script: str, **variables: str) -> str:
    return run_command(["/bin/sh", "-c", script], folder, Progress(), variables)


def test_it_runs_in_the_folder_with_the_variables_and_returns_what_was_said(tmp_path: Path) -> None:
    said = shell(tmp_path, 'pwd -P; echo "$GREETING" >&2', GREETING="hello")
    assert said == f"{tmp_path.resolve()}\nhello\n"


@pytest.mark.parametrize(
    ("script", "gist"),
    [
        ("echo working; echo 'ERROR: it is closed'; echo bye; exit 3", "it is closed"),
        ("echo 'npm error code E1'; echo 'npm error the host is not there'; exit 1", "the host is"),
        ("exit 7", "exit status 7"),
    ],
)
def test_a_failure_is_told_in_one_line(tmp_path: Path, script: str, gist: str) -> None:
    with pytest.raises(SourceError, match=f"^sh -c failed: {gist}.*$"):
        shell(tmp_path, script)


def test_a_program_that_is_missing_is_told(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"nothing here .*No such file"):
        run_command([str(tmp_path / "nothing"), "here"], tmp_path, Progress())


def test_a_program_that_does_not_end_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "_LIMIT_S", 0.1)
    with pytest.raises(SourceError, match="sh -c took more than"):
        shell(tmp_path, "echo $$ > pid; exec sleep 60")
    assert not Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}").exists()
