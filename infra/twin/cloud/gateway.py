"""API Gateway in front of a function: HTTP in, events to an alias, HTTP out.

It asks moto for the API and its integration, so Terraform's configuration is effective. CORS,
throttling and authorizers of HTTP APIs are not implemented.
"""

from __future__ import annotations

import base64
import binascii
import json
import logging
import re
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote

from moto.apigatewayv2.models import apigatewayv2_backends
from moto.awslambda.models import lambda_backends

from common.programs import serving
from infra.twin.cloud.data_plane import DataPlane, TooLarge, new_trace_id
from infra.twin.cloud.fleet import Throttled
from infra.twin.cloud.metrics import MetricWriter, Series
from infra.twin.cloud.runtime_api import QuietHandler, QuietServer
from infra.twin.cloud.targets import ACCOUNT, UnknownFunction

Json = dict[str, Any]


class NoResponse(ValueError):
    """The function's result is not a valid response."""


@dataclass(frozen=True)
class Request:
    """An HTTP request as it was received."""

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
    """Base64-encodes as API Gateway does: returns None for all but text, JSON, XML and
    JavaScript.
    """
    kind = (content_type or "").partition(";")[0].strip().lower()
    texts = ("application/json", "application/xml", "application/javascript")
    if not (kind.startswith("text/") or kind in texts or kind.endswith(("+json", "+xml"))):
        return None
    try:
        return body.decode()
    except UnicodeDecodeError:
        return None


def response_of(payload: bytes) -> Response:
    """The HTTP response in a function's result; raises NoResponse."""
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


logger = logging.getLogger(__name__)
_FUNCTION = re.compile(r"arn:aws[\w-]*:lambda:[\w-]+:\d{12}:function:[\w-]+(?::[\w$-]+)?")
_LOOK_AGAIN_S = 1.0
MAX_BODY_BYTES = 10 * 1024 * 1024


class NoApi(LookupError):
    """There is no API yet."""


@dataclass(frozen=True)
class Route:
    """An API and its function, by name or ARN with the alias."""

    api_id: str
    function: str


class Gateway:
    """Answers HTTP requests by invoking the function of the region's API."""

    def __init__(
        self, data_plane: DataPlane, metrics: MetricWriter, region: str, alias: str = "live"
    ) -> None:
        self._data_plane, self._metrics = data_plane, metrics
        self._region, self._alias = region, alias
        self._known: tuple[float, Route] | None = None

    def answer(self, request: Request) -> Response:
        begun = time.monotonic()
        request_id = secrets.token_urlsafe(11)
        try:
            route = self._route()
        except NoApi as error:
            return _problem(404, str(error), request_id)
        response = self._call(route, request, request_id)
        self._count(route, response.status, (time.monotonic() - begun) * 1e3)
        return response

    def _call(self, route: Route, request: Request, request_id: str) -> Response:
        domain = f"{route.api_id}.execute-api.{self._region}.amazonaws.com"
        trace_id = next(
            (value for name, value in request.headers if name.lower() == "x-amzn-trace-id"),
            new_trace_id(),
        )
        event = event_of(request, route.api_id, domain, request_id, ACCOUNT)
        event["headers"] |= {"x-amzn-trace-id": trace_id, "x-forwarded-for": request.source_ip}
        try:
            outcome = self._data_plane.invoke(
                self._region, route.function, None, json.dumps(event).encode(), trace_id
            )
            if outcome.failed:
                return _problem(500, "Internal Server Error", request_id)
            response = response_of(outcome.payload)
        except (UnknownFunction, NoResponse):
            return _problem(500, "Internal Server Error", request_id)
        except Throttled:
            return _problem(503, "Service Unavailable", request_id)
        except TooLarge:
            return _problem(413, "Request Too Long", request_id)
        headers = {**response.headers, "apigw-requestid": request_id}
        return Response(response.status, headers, response.body, response.cookies)

    def _route(self) -> Route:
        """The route, cached for up to a second."""
        now = time.monotonic()
        if self._known and now - self._known[0] < _LOOK_AGAIN_S:
            return self._known[1]
        route = self._find_route()
        self._known = now, route
        return route

    def _find_route(self) -> Route:
        for api in list(apigatewayv2_backends[ACCOUNT][self._region].apis.values()):
            for integration in list(api.integrations.values()):
                if match := _FUNCTION.search(integration.integration_uri or ""):
                    return Route(api.api_id, match[0])
        backend = lambda_backends[ACCOUNT][self._region]
        for function in list(backend.list_functions()):
            name = function.function_name
            if any(alias.name == self._alias for alias in backend.list_aliases(name)):
                return Route("none", f"{name}:{self._alias}")
        raise NoApi(f"no HTTP API calls a function, and no function has the alias {self._alias}")

    def _count(self, route: Route, status: int, latency_ms: float) -> None:
        values = [
            ("Count", "Count", 1.0),
            ("4xx", "Count", float(400 <= status < 500)),
            ("5xx", "Count", float(status >= 500)),
            ("Latency", "Milliseconds", latency_ms),
        ]
        api = ("ApiId", route.api_id)
        self._metrics.add(
            (Series(self._region, "AWS/ApiGateway", name, unit, dimensions), value)
            for name, unit, value in values
            for dimensions in ((api,), (api, ("Stage", "$default")))
        )


def _problem(status: int, message: str, request_id: str) -> Response:
    headers = {"content-type": "application/json", "apigw-requestid": request_id}
    return Response(status, headers, json.dumps({"message": message}).encode())


class _Handler(QuietHandler):
    server: _Server

    def _serve(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        if length > MAX_BODY_BYTES:
            self.close_connection = True
            self._send(_problem(413, "Request Too Long", "-"))
            return
        request = Request(
            self.command,
            self.path,
            self.headers.items(),
            self.rfile.read(length),
            str(self.client_address[0]),
            self.request_version,
        )
        try:
            self._send(self.server.gateway.answer(request))
        except Exception:
            logger.exception("the gateway failed")
            self._send(_problem(500, "Internal Server Error", "-"))

    do_DELETE = do_GET = do_HEAD = do_OPTIONS = do_PATCH = do_POST = do_PUT = _serve

    def _send(self, response: Response) -> None:
        self.send_response_only(response.status)
        for name, value in response.headers.items():
            if name not in ("content-length", "connection", "transfer-encoding"):
                self.send_header(name, value)
        for cookie in response.cookies:
            self.send_header("set-cookie", cookie)
        self.send_header("content-length", str(len(response.body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(response.body)


class _Server(QuietServer):
    request_queue_size = 128
    gateway: Gateway


@contextmanager
def listening(gateway: Gateway) -> Iterator[str]:
    """Serves during the block; yields the URL."""
    server = _Server(("127.0.0.1", 0), _Handler)
    server.gateway = gateway
    with serving(server) as url:
        yield url
