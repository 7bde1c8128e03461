"""Callers at a steady rate, whatever the service does."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from common.golden import GoldenImage, write_golden_set
from common.programs import serving
from infra.twin import load
from infra.twin.findings import Traffic, callers


class _Service(BaseHTTPRequestHandler):
    """Answers, and breaks the connection of every image that says so."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if json.loads(body)["image"] == "YnJlYWs=":  # "break"
            self.close_connection = True
            return
        self.send_response(200)
        self.send_header("x-model-version", "abc")
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *arguments: object) -> None:
        """Silent."""


@pytest.fixture
def url() -> Iterator[str]:
    with serving(ThreadingHTTPServer(("127.0.0.1", 0), _Service)) as url:
        yield url


def test_it_calls_at_its_rate_and_tells_every_answer(url: str, tmp_path: Path) -> None:
    images = tmp_path / "golden.zip"
    write_golden_set(images, "test", [GoldenImage(b"fine", "cat"), GoldenImage(b"break", "cat")])
    command = [sys.executable, load.__file__, url, str(images), "--rate", "50", "--callers", "2"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    traffic = Traffic()
    begun = time.monotonic()
    with callers(command, environment, traffic):
        while len(traffic.responses) < 40:
            time.sleep(0.01)
    statuses = [answer.status for answer in traffic.responses]
    assert len(statuses) <= 50 * (time.monotonic() - begun) + 1  # never above its rate
    assert abs(statuses.count(200) - statuses.count(0)) <= 2
    assert {answer.model for answer in traffic.responses if answer.status == 200} == {"abc"}


def test_it_ends_with_whoever_started_it(url: str, tmp_path: Path) -> None:
    images = tmp_path / "golden.zip"
    write_golden_set(images, "test", [GoldenImage(b"fine", "cat")])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(
        [sys.executable, load.__file__, url, str(images)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        env=environment,
    )
    assert process.stdin
    process.stdin.close()
    assert process.wait(60) == 0


def test_a_ctrl_c_is_left_to_whoever_started_it(url: str, tmp_path: Path) -> None:
    images = tmp_path / "golden.zip"
    write_golden_set(images, "test", [GoldenImage(b"fine", "cat")])
    with subprocess.Popen(
        [sys.executable, load.__file__, url, str(images)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    ) as process:
        assert process.stdout
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        process.stdout.readline()
        try:
            _, errors = process.communicate(timeout=30)
        finally:
            process.kill()
    assert (process.returncode, errors) == (0, b"")


def test_missed_turns_are_not_made_up(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 5.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    order = load.turns(100.0)
    on_time = [next(order), next(order)]
    now = 5.3
    late = [next(order), next(order)]
    assert [turn for turn, _ in on_time + late] == [0, 1, 2, 3]
    # On time: a hundredth later. Late: at once, and from there on at the rate again.
    assert [moment for _, moment in on_time + late] == pytest.approx([5.0, 5.01, 5.3, 5.31])
