"""Types are checked as strictly from mypy's cache as without one."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from tools.lint.types_check import main

ASKS = "import told\n\nnumber: int = told.answer()\n"


@pytest.fixture
def shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the cache of a machine will be; the working folder is one clone with one module."""
    clone = tmp_path / "clone"
    clone.mkdir()
    (clone / "pyproject.toml").write_text("[tool.mypy]\nstrict = true\n")
    (clone / "asks.py").write_text(ASKS)
    (clone / "told.py").write_text("def answer() -> int:\n    return 42\n")
    monkeypatch.chdir(clone)
    monkeypatch.setenv("KILN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "mypy"


def test_a_later_run_sees_what_has_changed_and_what_that_breaks(
    shared: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["asks.py"]) == 0
    assert list(shared.rglob("*.db"))
    Path("told.py").write_text("def answer() -> str:\n    return '42'\n")
    assert main(["asks.py"]) == 1
    fault = capsys.readouterr().out
    assert "asks.py:3: error" in fault
    assert main(["asks.py"]) == 1  # nothing has changed, and the fault is still there
    assert "asks.py:3: error" in capsys.readouterr().out


def test_a_cache_that_cannot_be_read_is_dropped(shared: Path) -> None:
    assert main(["asks.py"]) == 0
    for file in shared.rglob("*.db"):
        file.write_bytes(b"no database" * 1000)
    with pytest.raises(sqlite3.DatabaseError):
        main(["asks.py"])
    assert main(["asks.py"]) == 0


def test_where_no_cache_can_be_kept_the_check_is_the_same(shared: Path) -> None:
    shared.parent.mkdir()
    shared.parent.joinpath("mypy.lock").mkdir()  # as where nothing may be written
    Path("told.py").write_text("def answer() -> str:\n    return '42'\n")
    assert main(["asks.py"]) == 1
    assert not shared.exists()
