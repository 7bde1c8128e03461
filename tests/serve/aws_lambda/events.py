"""Events as AWS's front doors write them for the same HTTP request."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

Json = dict[str, Any]
Door = Callable[..., Json]


def _body(content: bytes | None, encoded: bool) -> tuple[str | None, bool]:
    if content is None:
        return None, False
    return (base64.b64encode(content) if encoded else content).decode(), encoded


def http_api(
    method: str,
    path: str,
    content: bytes | None = None,
    headers: dict[str, str] | None = None,
    encoded: bool = False,
    stage: str = "$default",
) -> Json:
    """API Gateway HTTP API, payload format 2.0; a stage of its own name stands before the path."""
    path = path if stage == "$default" else f"/{stage}{path}"
    body, is_encoded = _body(content, encoded)
    return {
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": path,
        "rawQueryString": "",
        "headers": {"host": "abc.execute-api.eu-central-1.amazonaws.com", **(headers or {})},
        "requestContext": {
            "accountId": "123456789012",
            "apiId": "abc",
            "domainName": "abc.execute-api.eu-central-1.amazonaws.com",
            "http": {
                "method": method,
                "path": path,
                "protocol": "HTTP/1.1",
                "sourceIp": "192.0.2.1",
                "userAgent": "test",
            },
            "requestId": "id",
            "routeKey": "$default",
            "stage": stage,
            "time": "12/Mar/2026:19:03:58 +0000",
            "timeEpoch": 1773342238000,
        },
        **({} if body is None else {"body": body}),
        "isBase64Encoded": is_encoded,
    }


def function_url(
    method: str,
    path: str,
    content: bytes | None = None,
    headers: dict[str, str] | None = None,
    encoded: bool = False,
) -> Json:
    """A function URL: format 2.0 with another domain."""
    event = http_api(method, path, content, headers, encoded)
    domain = "abc.lambda-url.eu-central-1.on.aws"
    event["headers"]["host"] = event["requestContext"]["domainName"] = domain
    return event


def rest_api(
    method: str,
    path: str,
    content: bytes | None = None,
    headers: dict[str, str] | None = None,
    encoded: bool = False,
    stage: str = "prod",
) -> Json:
    """API Gateway REST API, format 1.0: the stage is in the context's path alone."""
    headers = {"Host": "abc.execute-api.eu-central-1.amazonaws.com", **(headers or {})}
    body, is_encoded = _body(content, encoded)
    return {
        "resource": "/{proxy+}",
        "path": path,
        "httpMethod": method,
        "headers": headers,
        "multiValueHeaders": {name: [value] for name, value in headers.items()},
        "queryStringParameters": None,
        "multiValueQueryStringParameters": None,
        "pathParameters": {"proxy": path.removeprefix("/")},
        "stageVariables": None,
        "requestContext": {
            "resourcePath": "/{proxy+}",
            "httpMethod": method,
            "path": f"/{stage}{path}",
            "protocol": "HTTP/1.1",
            "stage": stage,
            "domainName": "abc.execute-api.eu-central-1.amazonaws.com",
            "identity": {"sourceIp": "192.0.2.1", "userAgent": "test"},
            "requestId": "id",
            "apiId": "abc",
        },
        "body": body,
        "isBase64Encoded": is_encoded,
    }


def load_balancer(
    method: str,
    path: str,
    content: bytes | None = None,
    headers: dict[str, str] | None = None,
    encoded: bool = False,
) -> Json:
    """An Application Load Balancer, without multi-value headers."""
    body, is_encoded = _body(content, encoded)
    target = (
        "arn:aws:elasticloadbalancing:eu-central-1:123456789012:targetgroup/kiln/d6190d154bc908a5"
    )
    return {
        "requestContext": {"elb": {"targetGroupArn": target}},
        "httpMethod": method,
        "path": path,
        "queryStringParameters": {},
        "headers": {
            "host": "kiln-123.eu-central-1.elb.amazonaws.com",
            "x-forwarded-for": "192.0.2.1",
            "x-forwarded-port": "443",
            "x-forwarded-proto": "https",
            **(headers or {}),
        },
        "body": body or "",
        "isBase64Encoded": is_encoded,
    }


def status_and_json(answer: Json) -> tuple[int, Any]:
    """What a front door makes of the function's answer."""
    body = answer["body"]
    if answer.get("isBase64Encoded"):
        body = base64.b64decode(body)
    return answer["statusCode"], json.loads(body)
