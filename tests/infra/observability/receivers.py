"""Where alerts arrive: a webhook that takes Slack's format and a mail server, both on loopback."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from email import message_from_bytes, policy
from email.message import EmailMessage, Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session

from common.programs import free_port, serving

_PATH = "/services/T000/B000/secret"


class Slack(ThreadingHTTPServer):
    """Keeps the messages that came to its secret address; refuses what Slack would refuse."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.messages: list[dict[str, Any]] = []
        self.refused: list[str] = []

    @property
    def url(self) -> str:
        """The webhook's address."""
        return f"http://127.0.0.1:{self.server_port}{_PATH}"

    def titles(self) -> list[str]:
        """Of all attachments so far."""
        return [one["title"] for message in self.messages for one in message["attachments"]]


class _Handler(BaseHTTPRequestHandler):
    server: Slack

    def log_message(self, *arguments: object) -> None:
        """Silent."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        try:
            self.server.messages.append(checked(self.path, self.headers, body))
            self._answer(200, b"ok")
        except (AssertionError, ValueError) as exc:
            self.server.refused.append(f"{exc}: {body!r}")
            self._answer(400, b"invalid_payload")

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def checked(path: str, headers: Message, body: bytes) -> dict[str, Any]:
    """A message for an incoming webhook.

    https://docs.slack.dev/legacy/legacy-messaging/legacy-secondary-message-attachments

    Raises:
        AssertionError, ValueError: Slack would not take it.
    """
    assert path == _PATH, f"no webhook at {path}"
    assert headers["Content-Type"].startswith("application/json")
    message: dict[str, Any] = json.loads(body)
    assert message.get("text") or message["attachments"], "no_text"
    for attachment in message["attachments"]:
        assert attachment["fallback"], "an attachment needs a fallback"
        for field in ("title", "title_link", "text", "color", "pretext"):
            assert isinstance(attachment.get(field, ""), str), field
        color = attachment["color"]
        assert color in {"good", "warning", "danger"} or color.startswith("#"), color
        assert len(attachment["text"]) <= 8000
    return message


class Mailbox:
    """aiosmtpd's handler: keeps every mail with its envelope."""

    def __init__(self) -> None:
        self.mails: list[tuple[Envelope, EmailMessage]] = []

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        assert isinstance(envelope.content, bytes)
        mail = message_from_bytes(envelope.content, policy=policy.default)
        assert isinstance(mail, EmailMessage)
        self.mails.append((envelope, mail))
        return "250 Message accepted for delivery"


@contextmanager
def receivers(folder: Path) -> Iterator[tuple[Slack, Mailbox, dict[str, str]]]:
    """Both, and the variables that have alerts sent to them."""
    box, slack = Mailbox(), Slack()
    port = free_port()
    mail = Controller(box, hostname="127.0.0.1", port=port)
    secret = folder / "webhook"
    secret.write_text(slack.url)
    variables = {
        "KILN_SLACK_WEBHOOK_FILE": str(secret),
        "KILN_SLACK_CHANNEL": "#kiln",
        "KILN_SMTP_SMARTHOST": f"127.0.0.1:{port}",
        "KILN_SMTP_FROM": "kiln@example.org",
        "KILN_SMTP_TO": "oncall@example.org",
        "KILN_SMTP_REQUIRE_TLS": "false",
        "KILN_ALERT_GROUP_WAIT": "1s",
        "KILN_ALERT_GROUP_INTERVAL": "1s",
    }
    mail.start()
    try:
        with serving(slack):
            yield slack, box, variables
    finally:
        mail.stop()
