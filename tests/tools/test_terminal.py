"""common/terminal.py."""

import pytest

from common.terminal import terminal


def test_a_pipe_is_as_wide_as_the_program_says(capsys: pytest.CaptureFixture[str]) -> None:
    terminal(200).print("x" * 150)
    terminal(150, stderr=True).print("y" * 150)
    assert capsys.readouterr() == ("x" * 150 + "\n", "y" * 150 + "\n")


def test_a_terminal_is_as_wide_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "70")
    assert terminal(200).width == 70
