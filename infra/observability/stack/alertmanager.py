"""Alertmanager's configuration: receivers and routes, from environment variables.

    KILN_SLACK_WEBHOOK_FILE      file with the URL of a Slack webhook, or a compatible service
    KILN_SLACK_CHANNEL           channel, if the webhook allows a choice
    KILN_SMTP_SMARTHOST          host:port of the mail server
    KILN_SMTP_FROM               sender
    KILN_SMTP_TO                 receivers, separated by commas
    KILN_SMTP_USERNAME           for servers that require it
    KILN_SMTP_PASSWORD_FILE      file with the password
    KILN_SMTP_REQUIRE_TLS        false for a local server; default true

Alertmanager reads secrets from files; the configuration holds only their paths.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_TITLE = "{{ .CommonLabels.severity | toUpper }} {{ .CommonLabels.alertname }}"
_TITLE_OF_STATUS = f'{{{{ if eq .Status "resolved" }}}}ENDED {{{{ end }}}}{_TITLE}'
_TEXT = (
    "{{ range .Alerts }}{{ .Annotations.summary }} (now {{ .Annotations.value }})\n"
    "{{ .Annotations.description }}\nRunbook: {{ .Annotations.runbook_url }}\n{{ end }}"
)


class RoutingError(ValueError):
    """A variable is missing or wrong; the message names it."""


def alertmanager_config(environ: Mapping[str, str]) -> dict[str, Any]:
    """`alertmanager.yml`: pages go to all receivers at once; warnings are grouped and rarely
    repeated.

    Raises:
        RoutingError: a receiver is configured incompletely.
    """
    return _config({"name": "people", **_slack(environ), **_email(environ)}, environ)


def managed_config() -> dict[str, Any]:
    """Configuration of Managed Prometheus' Alertmanager; Terraform fills in the SNS topic."""
    topic = {
        "topic_arn": "${topic_arn}",
        "sigv4": {"region": "${region}"},
        "send_resolved": True,
        "subject": f"[kiln] {_TITLE_OF_STATUS}",
        "message": _TEXT,
    }
    return _config({"name": "people", "sns_configs": [topic]}, {})


def _config(receiver: Mapping[str, Any], environ: Mapping[str, str]) -> dict[str, Any]:
    return {
        "route": {
            "receiver": "people",
            "group_by": ["alertname", "slo"],
            "group_wait": environ.get("KILN_ALERT_GROUP_WAIT") or "30s",
            "group_interval": environ.get("KILN_ALERT_GROUP_INTERVAL") or "5m",
            "repeat_interval": "12h",
            "routes": [
                {
                    "matchers": ['severity="page"'],
                    "receiver": "people",
                    "group_wait": environ.get("KILN_ALERT_GROUP_WAIT") or "10s",
                    "repeat_interval": "1h",
                }
            ],
        },
        "inhibit_rules": [
            # A fast burn also raises the slow-burn alert.
            {
                "source_matchers": ['severity="page"', 'slo!=""'],
                "target_matchers": ['severity="warning"'],
                "equal": ["slo"],
            },
            # An outage inhibits alerts on few or slow responses.
            {
                "source_matchers": ['alertname="RecoveryTooSlow"'],
                "target_matchers": ['severity="warning"', 'owner="service"'],
            },
        ],
        "receivers": [receiver],
    }


def _slack(environ: Mapping[str, str]) -> dict[str, Any]:
    if not (path := environ.get("KILN_SLACK_WEBHOOK_FILE")):
        return {}
    channel = environ.get("KILN_SLACK_CHANNEL")
    return {
        "slack_configs": [
            {
                "api_url_file": path,
                **({"channel": channel} if channel else {}),
                "send_resolved": True,
                "title": _TITLE_OF_STATUS,
                "title_link": "{{ (index .Alerts 0).GeneratorURL }}",
                "text": _TEXT,
                "color": '{{ if eq .Status "resolved" }}good{{ else if eq '
                '.CommonLabels.severity "page" }}danger{{ else }}warning{{ end }}',
            }
        ]
    }


def _email(environ: Mapping[str, str]) -> dict[str, Any]:
    names = {name: environ.get(f"KILN_SMTP_{name}", "") for name in ("SMARTHOST", "FROM", "TO")}
    if not any(names.values()):
        return {}
    if missing := [f"KILN_SMTP_{name}" for name, value in names.items() if not value]:
        raise RoutingError(f"mail needs {', '.join(missing)} too: see --help")
    user, secret = environ.get("KILN_SMTP_USERNAME"), environ.get("KILN_SMTP_PASSWORD_FILE")
    return {
        "email_configs": [
            {
                "to": names["TO"],
                "from": names["FROM"],
                "smarthost": names["SMARTHOST"],
                "require_tls": environ.get("KILN_SMTP_REQUIRE_TLS", "true").lower() != "false",
                **({"auth_username": user} if user else {}),
                **({"auth_password_file": secret} if secret else {}),
                "send_resolved": True,
                "headers": {"Subject": f"[kiln] {_TITLE_OF_STATUS}"},
                "html": "",
                "text": _TEXT,
            }
        ]
    }
