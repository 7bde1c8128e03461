"""Alerts as Prometheus sends them, through the real Alertmanager, to people."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.request import ProxyHandler, Request, build_opener

import pytest
import yaml

from common.programs import free_port, require_program
from infra.observability.catalogue import load
from infra.observability.rules import rule_file
from infra.observability.stack.alertmanager import RoutingError, alertmanager_config
from infra.observability.stack.local import alertmanager_program, running, with_templates
from tests.helpers.waiting import wait_until
from tests.infra.observability.receivers import Mailbox, Slack, receivers

ALERTS = {
    rule["alert"]: rule
    for group in rule_file(load())["groups"]
    for rule in group["rules"]
    if "alert" in rule
}
_direct = build_opener(ProxyHandler({}))


@dataclass(frozen=True)
class Route:
    """A running Alertmanager and both ends behind it."""

    url: str
    slack: Slack
    mailbox: Mailbox

    def send(self, name: str, ends_in_s: float = 300, **labels: str) -> None:
        """As Prometheus does."""
        rule, now = ALERTS[name], datetime.now(UTC)
        alert = {
            "labels": {"alertname": name, **rule["labels"], **labels},
            "annotations": {**rule["annotations"], "value": "0.02"},
            "startsAt": (now - timedelta(seconds=max(0, 1 - ends_in_s))).isoformat(),
            "endsAt": (now + timedelta(seconds=ends_in_s)).isoformat(),
            "generatorURL": f"http://prometheus/graph?g0.expr={name}",
        }
        body = json.dumps([alert]).encode()
        request = Request(f"{self.url}/api/v2/alerts", body, {"content-type": "application/json"})
        with _direct.open(request, timeout=30) as answer:
            assert answer.status == 200

    def message(self, title: str) -> dict[str, Any]:
        """The attachment with that title, once it has come."""
        wait_until(lambda: title in self.slack.titles(), f"{title}; came: {self.slack.titles()}")
        found: dict[str, Any] = next(
            one
            for message in self.slack.messages
            for one in message["attachments"]
            if one["title"] == title
        )
        return found


@pytest.fixture
def route(tmp_path: Path) -> Iterator[Route]:
    for program in ("prometheus-alertmanager", "bwrap"):
        require_program(program)
    with receivers(tmp_path) as (slack, mailbox, environ):
        config = tmp_path / "alertmanager.yml"
        config.write_text(json.dumps(alertmanager_config(environ)))
        address = f"127.0.0.1:{free_port()}"
        with running([alertmanager_program(address, config, tmp_path)], tmp_path / "logs"):
            yield Route(f"http://{address}", slack, mailbox)
    assert slack.refused == []


def test_a_page_reaches_slack_and_the_mailbox_and_so_does_its_end(route: Route) -> None:
    route.send("ErrorShare")
    attachment = route.message("PAGE ErrorShare")
    assert attachment["color"] == "danger"
    assert attachment["title_link"] == "http://prometheus/graph?g0.expr=ErrorShare"
    assert "1 %" in attachment["text"]
    assert "now 0.02" in attachment["text"]
    assert "docs/runbook.md#errorshare" in attachment["text"]
    assert route.slack.messages[0]["channel"] == "#kiln"
    wait_until(lambda: route.mailbox.mails, "a mail")
    envelope, mail = route.mailbox.mails[0]
    assert (envelope.mail_from, envelope.rcpt_tos) == ("kiln@example.org", ["oncall@example.org"])
    assert mail["Subject"] == "[kiln] PAGE ErrorShare"
    body = mail.get_body(("plain",))
    assert body is not None
    assert "docs/runbook.md#errorshare" in body.get_content()
    route.send("ErrorShare", ends_in_s=-1)
    assert route.message("ENDED PAGE ErrorShare")["color"] == "good"


def test_a_budget_that_burns_fast_silences_its_slow_alert_and_no_other(route: Route) -> None:
    route.send("ErrorsFastBurn")
    route.message("PAGE ErrorsFastBurn")
    route.send("ErrorsSlowBurn")
    route.send("LatencySlowBurn")
    assert route.message("WARNING LatencySlowBurn")["color"] == "warning"
    assert "WARNING ErrorsSlowBurn" not in route.slack.titles()


def test_alerts_of_one_name_come_in_one_message(route: Route) -> None:
    for window in ("300", "3000"):
        route.send("Drift", window=window)
    text = route.message("PAGE Drift")["text"]
    assert text.count("docs/runbook.md#drift") == 2
    assert route.slack.titles() == ["PAGE Drift"]


def _amtool(config: Path) -> str:
    command = [*with_templates(require_program("amtool")), "check-config", str(config)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_amtool_accepts_what_the_environment_gives_also_nothing(tmp_path: Path) -> None:
    require_program("bwrap")
    with receivers(tmp_path) as (_, _, environ):
        for variables in ({}, environ, environ | {"KILN_SMTP_USERNAME": "kiln"}):
            config = tmp_path / "alertmanager.yml"
            config.write_text(json.dumps(alertmanager_config(variables)))
            assert "SUCCESS" in _amtool(config)


def test_amtool_accepts_what_managed_prometheus_is_given(tmp_path: Path) -> None:
    require_program("bwrap")
    template = Path("infra/terraform/roots/observability/alertmanager.yml.tftpl").read_text("utf-8")
    topic = "arn:aws:sns:eu-central-1:123456789012:kiln-dev-alarms"
    filled = template.replace("${topic_arn}", topic).replace("${region}", "eu-central-1")
    assert "${" not in filled
    assert "%{" not in filled
    config = tmp_path / "alertmanager.yml"
    config.write_text(yaml.safe_load(filled)["alertmanager_config"])
    assert "SUCCESS" in _amtool(config)


def test_no_secret_is_in_the_configuration(tmp_path: Path) -> None:
    with receivers(tmp_path) as (slack, _, environ):
        environ["KILN_SMTP_PASSWORD_FILE"] = str(tmp_path / "password")
        text = json.dumps(alertmanager_config(environ))
        assert slack.url not in text
        assert environ["KILN_SLACK_WEBHOOK_FILE"] in text
        assert str(tmp_path / "password") in text


def test_half_a_mail_server_is_refused_by_name() -> None:
    with pytest.raises(RoutingError, match="KILN_SMTP_FROM, KILN_SMTP_TO"):
        alertmanager_config({"KILN_SMTP_SMARTHOST": "mail:25"})
