"""The function between SNS and Slack, called as Lambda calls it, with a receiver on loopback."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any
from urllib.error import HTTPError

import pytest

from common.programs import serving
from infra.terraform.modules.slack.function import slack

ALARM = {
    "AlarmName": "kiln-prod-error-share",
    "AlarmDescription": "More than 1 % of the answers were 5xx.",
    "NewStateValue": "ALARM",
    "NewStateReason": "Threshold Crossed",
    "StateChangeTime": "2026-11-26T18:00:00.000+0000",
    "Region": "EU (Frankfurt)",
}


class Receiver(HTTPServer):
    """Takes webhooks as Slack does."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.bodies: list[Any] = []
        self.status = 200

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/services/secret"


class _Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.bodies.append(json.loads(body))
        self.send_response(self.server.status)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Tests print nothing."""


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    monkeypatch.setenv("WEBHOOK_PARAMETER", "/kiln/slack-webhook")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    server = Receiver()
    monkeypatch.setattr(slack, "read_webhook", lambda parameter: server.url)
    with serving(server):
        yield server


def event(*messages: object, subject: str | None = None) -> dict[str, Any]:
    texts = [one if isinstance(one, str) else json.dumps(one) for one in messages]
    return {"Records": [{"Sns": {"Subject": subject, "Message": text}} for text in texts]}


def test_an_alarm_says_what_and_why(receiver: Receiver) -> None:
    slack.handler(event(ALARM), None)
    (body,) = receiver.bodies
    assert body["text"] == "ALARM: kiln-prod-error-share"
    (attachment,) = body["attachments"]
    assert attachment["text"] == "More than 1 % of the answers were 5xx.\nThreshold Crossed"
    assert attachment["footer"] == "EU (Frankfurt) 2026-11-26T18:00:00.000+0000"


def test_an_alarm_that_is_over_has_another_colour(receiver: Receiver) -> None:
    slack.handler(event(ALARM, {**ALARM, "NewStateValue": "OK"}), None)
    colours = [body["attachments"][0]["color"] for body in receiver.bodies]
    assert len(set(colours)) == 2


@pytest.mark.parametrize("text", ["80 % of the budget is spent", "[1]", '"x"', '{"a": 1}', "null"])
def test_any_other_message_is_passed_on_as_it_is(receiver: Receiver, text: str) -> None:
    slack.handler(event(text, subject="AWS Budgets"), None)
    assert receiver.bodies == [{"text": f"AWS Budgets\n{text}"}]


def test_a_refusal_is_an_error_without_the_webhook_in_it(receiver: Receiver) -> None:
    """So that SNS tries again, and the log keeps the secret."""
    receiver.status = 403
    with pytest.raises(HTTPError) as refused:
        slack.handler(event(ALARM), None)
    assert "secret" not in str(refused.value)
    refused.value.close()
