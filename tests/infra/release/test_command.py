"""What is the same for every command."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from rich.console import Console

from infra.release.commands import command


def test_a_mistake_of_the_command_s_own_is_not_taken_for_a_refusal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "interrupt_by_sigterm", lambda: None)

    def main(arguments: Sequence[str], out: Console, errors: Console) -> int:
        raise KeyError("unexpected")

    with pytest.raises(SystemExit) as ended:
        command.entry(main)
    assert ended.value.code == 70
    assert "KeyError: 'unexpected'" in capsys.readouterr().err
