"""Lambda function from SNS to Slack: posts alarms to a webhook.

It runs on Lambda's Python runtime, so it uses only the standard library and the provided boto3.
"""

import json
import os
import urllib.request
from collections.abc import Mapping
from typing import Any

_COLOURS = {"ALARM": "#d13212", "OK": "#1d8102", "INSUFFICIENT_DATA": "#687078"}
_TIMEOUT_S = 10


def handler(event: Mapping[str, Any], context: object) -> None:
    """Posts each record; on an error SNS retries for up to six hours."""
    webhook = read_webhook(os.environ["WEBHOOK_PARAMETER"])
    for record in event["Records"]:
        notification = record["Sns"]
        post(webhook, message(notification.get("Subject") or "Kiln", notification["Message"]))


def read_webhook(parameter: str) -> str:
    """Read at each invocation: replacing the webhook needs no deployment, and alarms are rare."""
    import boto3

    answer = boto3.client("ssm").get_parameter(Name=parameter, WithDecryption=True)
    return str(answer["Parameter"]["Value"])


def message(subject: str, text: str) -> dict[str, Any]:
    """Slack's form of a CloudWatch alarm; other texts, such as budget notices, are passed
    through.
    """
    try:
        alarm = json.loads(text)
        name, state, reason = alarm["AlarmName"], alarm["NewStateValue"], alarm["NewStateReason"]
    except (ValueError, KeyError, TypeError):
        return {"text": f"{subject}\n{text}"}
    lines = [alarm.get("AlarmDescription") or "", reason]
    return {
        "text": f"{state}: {name}",
        "attachments": [
            {
                "color": _COLOURS.get(state, _COLOURS["INSUFFICIENT_DATA"]),
                "text": "\n".join(filter(None, lines)),
                "footer": f"{alarm.get('Region', '')} {alarm.get('StateChangeTime', '')}".strip(),
            }
        ],
    }


def post(webhook: str, body: Mapping[str, Any]) -> None:
    """Posts a message.

    Raises:
        urllib.error.URLError: Slack refused it. The message does not contain the webhook.
    """
    request = urllib.request.Request(  # noqa: S310 # from the parameter
        webhook, json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=_TIMEOUT_S):  # noqa: S310 # from the parameter
        pass
