"""Messages to a webhook on loopback."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from common.programs import serving
from tools.slack import main

RECEIVED: list[Any] = []
RESULTS = '{"staging": {"result": "success"}, "production": {"result": "failure"}}'


class Webhook(BaseHTTPRequestHandler):
    """Takes what Slack would take."""

    def do_POST(self) -> None:
        RECEIVED.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(403 if self.path == "/gone" else 200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Silent."""


@pytest.fixture
def webhook(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    RECEIVED.clear()
    with serving(ThreadingHTTPServer(("127.0.0.1", 0), Webhook)) as url:
        monkeypatch.setenv("SLACK_WEBHOOK_URL", f"{url}/hook")
        yield f"{url}/hook"


def test_a_failure_is_told_with_where_it_failed(webhook: str) -> None:
    assert main(["--title=Release v1", "--results", RESULTS, "--link=https://a.invalid/1"]) == 0
    [told] = RECEIVED
    assert told["text"] == "*Release v1*: failed at production"
    body = told["blocks"][0]["text"]["text"]
    assert ":white_check_mark: staging: success" in body
    assert "<https://a.invalid/1|the run>" in body


def test_a_refusal_is_an_error_that_does_not_show_the_address(
    webhook: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SLACK_WEBHOOK_URL", webhook.replace("/hook", "/gone"))
    assert main(["--title=a"]) == 1
    said = capsys.readouterr()
    assert said.err
    assert "127.0.0.1" not in said.out + said.err


def test_without_an_address_nobody_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("SLACK_WEBHOOK_URL", raising=False)
    assert main(["--title=a"]) == 0
    assert "SLACK_WEBHOOK_URL" in capsys.readouterr().out


@pytest.mark.parametrize("results", ["no JSON", "[]", '{"a": 1}'])
def test_results_of_another_form_are_bad_input(results: str) -> None:
    assert main(["--title=a", "--results", results]) == 2


def test_an_address_without_tls_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLACK_WEBHOOK_URL", "http://slack.invalid/hook")
    assert main(["--title=a"]) == 2
