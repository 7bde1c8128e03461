"""Requests as an HTTP API hands them to the function, and how the release manager's are told apart.

What the manager asks is no traffic. Its trace ids, which become request ids, begin with letters
that no random id is expected to begin with (64 bits), so its lines in the log are left out.
"""

from __future__ import annotations

import base64
import json
import os
from typing import Any

_OURS = b"kiln"  # in hexadecimal digits, with four more letters that say what for
REPLAY, SHADOW = (_OURS + what for what in (b"-rel", b"-sha"))


def trace_id(purpose: bytes) -> str:
    """A new one for what the release manager asks."""
    return (purpose + os.urandom(8)).hex()


def is_ours(trace: str) -> bool:
    """Whether a request was the release manager's."""
    return trace.startswith(_OURS.hex() + b"-".hex())


def http_event(
    method: str, path: str, document: Any = None, trace: str | None = None
) -> dict[str, Any]:
    """API Gateway's event, payload format 2.0, with a JSON body."""
    headers = {"host": "release-manager", "content-type": "application/json"}
    headers["traceparent"] = f"00-{trace or trace_id(REPLAY)}-{os.urandom(8).hex()}-00"
    http = {
        "method": method,
        "path": path,
        "protocol": "HTTP/1.1",
        "sourceIp": "127.0.0.1",
        "userAgent": "kiln-release",
    }
    event: dict[str, Any] = {
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": path,
        "rawQueryString": "",
        "headers": headers,
        "requestContext": {
            "domainName": "release-manager",
            "http": http,
            "requestId": "release-manager",
            "routeKey": "$default",
            "stage": "$default",
        },
        "isBase64Encoded": False,
    }
    if document is not None:
        event["body"] = json.dumps(document)
    return event


def predict_event(image: bytes, trace: str | None = None) -> dict[str, Any]:
    """POST /predict of one image file."""
    document = {"image": base64.b64encode(image).decode("ascii")}
    return http_event("POST", "/predict", document, trace)


def http_answer(payload: bytes) -> tuple[int, Any]:
    """Status and JSON of what the function returned; ValueError if it is no answer to a request."""
    answer = json.loads(payload)
    if not isinstance(answer, dict) or "statusCode" not in answer:
        raise ValueError(f"no HTTP answer: {payload[:200]!r}")
    body = answer.get("body") or ""
    if answer.get("isBase64Encoded"):
        body = base64.b64decode(body)
    return int(answer["statusCode"]), json.loads(body) if body else None
