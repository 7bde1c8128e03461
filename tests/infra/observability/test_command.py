"""`//infra:observability` as a process: it starts, says where, and leaves nothing behind."""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from common.programs import require_program
from infra.observability import main
from infra.observability.stack.local import StackError, answers
from tests.helpers.waiting import wait_until

PORTS = [f"--{name}-port=0" for name in ("otlp", "prometheus", "alertmanager")]


def test_the_local_stack_runs_until_ctrl_c_and_then_nothing_listens(tmp_path: Path) -> None:
    for program in ("prometheus", "prometheus-alertmanager", "prometheus-node-exporter", "vmagent"):
        require_program(program)
    arguments = ["--engine=local", f"--data={tmp_path}", *PORTS]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "infra.observability.main", *arguments],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if "Ctrl-C stops" in line:
            break
    said = "".join(lines)
    assert all(name in said for name in ("Grafana", "Tempo", "Loki"))  # which need containers
    addresses = set(re.findall(r"http://(127\.0\.0\.1:\d+)", said))
    assert len(addresses) == 3
    assert all(answers(address) for address in addresses)
    links = re.findall(r"http://\S+/api/\S+", said)
    assert len(links) == 4
    assert all(answers(link) for link in links), links
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert not any(answers(address) for address in addresses)
    assert (tmp_path / "prometheus").is_dir()


def run(*arguments: str, **environ: str) -> tuple[int, str]:
    console = Console(record=True, width=200, file=io.StringIO())
    code = main.main(arguments, console, environ, lambda: "no Docker engine answers")
    return code, console.export_text()


def test_containers_that_cannot_be_are_refused_with_the_reason() -> None:
    code, said = run("--engine=docker")
    assert code == main.FAILED
    assert "no Docker engine answers" in said


def test_a_log_hears_of_an_engine_that_is_slow_to_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("common.terminal.EVERY_S", 0.01)
    file = io.StringIO()

    def slow() -> str:
        wait_until(lambda: "still looking for a container engine, " in file.getvalue())
        return "it does not answer"

    assert main.main(["--engine=docker"], Console(file=file), {}, slow) == main.FAILED


def test_a_log_hears_of_programs_that_start_slowly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("common.terminal.EVERY_S", 0.01)
    file = io.StringIO()

    def slow(*_: object, **__: object) -> None:
        wait_until(lambda: "still starting the programs, " in file.getvalue())
        raise StackError("prometheus does not answer")

    monkeypatch.setattr(main, "local_stack", slow)
    arguments = ["--engine=local", f"--data={tmp_path}"]
    assert main.main(arguments, Console(file=file), {}) == main.FAILED


def test_half_a_receiver_is_bad_input(tmp_path: Path) -> None:
    code, said = run(f"--data={tmp_path}", *PORTS, KILN_SMTP_TO="a@example.org")
    assert code == main.BAD_INPUT
    assert "KILN_SMTP_SMARTHOST" in said


def test_help_says_what_runs_where(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run("--help")
    assert ended.value.code == 0
    said = capsys.readouterr().out
    assert "KILN_SLACK_WEBHOOK_FILE" in said
    assert "--prometheus-port" in said
