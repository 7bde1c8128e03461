"""API Gateway's HTTP APIs: requests as events of format 2.0, a function's answers as responses.

https://docs.aws.amazon.com/apigateway/latest/developerguide/http-api-develop-integrations-lambda.html
"""

from __future__ import annotations

import base64
import binascii
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote

Json = dict[str, Any]


class NoResponse(ValueError):
    """What the function answered cannot be a response."""


@dataclass(frozen=True)
class Request:
    """As it came over the line."""

    method: str
    target: str  # path and query
    headers: Sequence[tuple[str, str]]
    body: bytes
    source_ip: str
    protocol: str = "HTTP/1.1"


@dataclass(frozen=True)
class Response:
    status: int
    headers: Mapping[str, str]
    body: bytes
    cookies: Sequence[str] = field(default=())


def event_of(request: Request, api_id: str, domain: str, request_id: str, account: str) -> Json:
    """The event for the stage `$default`."""
    path, _, query = request.target.partition("?")
    headers: dict[str, str] = {}
    cookies: list[str] = []
    for name, value in request.headers:
        key = name.lower()
        if key == "cookie":
            cookies += [part.strip() for part in value.split(";")]
        else:
            headers[key] = f"{headers[key]},{value}" if key in headers else value
    now = time.time()
    event: Json = {
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": unquote(path),
        "rawQueryString": query,
        "headers": {**headers, "host": domain},
        "requestContext": {
            "accountId": account,
            "apiId": api_id,
            "domainName": domain,
            "domainPrefix": api_id,
            "http": {
                "method": request.method,
                "path": unquote(path),
                "protocol": request.protocol,
                "sourceIp": request.source_ip,
                "userAgent": headers.get("user-agent", ""),
            },
            "requestId": request_id,
            "routeKey": "$default",
            "stage": "$default",
            "time": time.strftime("%d/%b/%Y:%H:%M:%S +0000", time.gmtime(now)),
            "timeEpoch": int(now * 1000),
        },
        "isBase64Encoded": False,
    }
    if cookies:
        event["cookies"] = cookies
    if query:
        pairs: dict[str, str] = {}
        for name, value in parse_qsl(query, keep_blank_values=True):
            pairs[name] = f"{pairs[name]},{value}" if name in pairs else value
        event["queryStringParameters"] = pairs
    if request.body:
        text = _as_text(request.body, headers.get("content-type"))
        event["isBase64Encoded"] = text is None
        event["body"] = base64.b64encode(request.body).decode() if text is None else text
    return event


def _as_text(body: bytes, content_type: str | None) -> str | None:
    """None for what API Gateway encodes in base64: all but text, JSON, XML and JavaScript."""
    kind = (content_type or "").partition(";")[0].strip().lower()
    texts = ("application/json", "application/xml", "application/javascript")
    if not (kind.startswith("text/") or kind in texts or kind.endswith(("+json", "+xml"))):
        return None
    try:
        return body.decode()
    except UnicodeDecodeError:
        return None


def response_of(payload: bytes) -> Response:
    """Raises NoResponse."""
    try:
        answer = json.loads(payload)
    except ValueError as error:
        raise NoResponse("no JSON") from error
    if not isinstance(answer, dict) or "statusCode" not in answer:
        # "If your function returns valid JSON and doesn't return a statusCode"
        return Response(200, {"content-type": "application/json"}, payload)
    body = answer.get("body") or ""
    try:
        status = int(answer["statusCode"])
        text = body if isinstance(body, str) else json.dumps(body)
        content = base64.b64decode(text) if answer.get("isBase64Encoded") else text.encode()
    except (TypeError, ValueError, binascii.Error) as error:
        raise NoResponse(str(error)) from error
    headers = {name.lower(): str(value) for name, value in (answer.get("headers") or {}).items()}
    headers.setdefault("content-type", "application/json")
    return Response(status, headers, content, answer.get("cookies") or ())
