"""Middleware around every response: request id, model version, uniform errors."""

import logging
from collections.abc import Iterable, Sequence

import msgspec
from starlette.exceptions import HTTPException
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.errors import (
    PROBLEM,
    ClientLeft,
    InternalError,
    MethodNotAllowed,
    NotFound,
    ServiceError,
)
from serve.exchange import KEY, Exchange, Observer
from serve.http.schemas import Problem

logger = logging.getLogger(__name__)

JSON = b"application/json"

_PROBLEM_JSON = b"application/problem+json"
_FROM_STARLETTE: dict[int, type[ServiceError]] = {404: NotFound, 405: MethodNotAllowed}


class RequestMiddleware:
    """Identifies each request, turns exceptions into responses, and calls the observer."""

    def __init__(
        self,
        app: ASGIApp,
        model_version: str,
        root_path: str = "",
        observer: Observer | None = None,
        direct: Sequence[Route] = (),
    ) -> None:
        """
        Args:
            direct: POST routes that bypass Starlette's router and its layers, which cost a fifth of
                the CPU time of a small image beside the model.
        """
        self._direct = {route.path: route for route in direct}
        self._app, self._observer, self._root_path = app, observer, root_path
        self._model_version = model_version
        self._common = [
            (b"x-model-version", model_version.encode()),
            (b"x-content-type-options", b"nosniff"),
        ]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = scope[KEY] = Exchange(
            header(scope, b"traceparent"), scope.get("scheme", "http"), is_invoked(scope)
        )
        if exchange.parent:
            exchange.tracestate = header(scope, b"tracestate")
        if self._root_path:
            scope["root_path"] = self._root_path
        app = self._app
        if scope["method"] == "POST" and (route := self._direct.get(scope["path"])):
            scope["route"], app = route, route.app

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                exchange.status = message["status"]
                message["headers"] = [
                    *message.get("headers", ()),
                    (b"x-request-id", exchange.request_id.encode()),
                    *self._common,
                ]
            await send(message)

        try:
            await app(scope, receive, send_with_headers)
        except ClientLeft:
            exchange.error = "client-left"
        except Exception as exc:
            error = as_service_error(exc, scope)
            if isinstance(error, InternalError):
                logger.exception("request failed", extra={"request_id": exchange.request_id})
            if exchange.status:  # the response has started: the server closes the connection
                raise
            exchange.error = error.kind
            if _is_open_inference(scope):
                await _answer_in_protocol(error, send_with_headers)
            else:
                await self._answer_error(error, exchange, send_with_headers)
        finally:
            exchange.route = getattr(scope.get("route"), "path", "")  # the route found by Starlette
            if self._observer is not None:
                self._observer(exchange, scope["method"], scope["path"])

    async def _answer_error(self, error: ServiceError, exchange: Exchange, send: Send) -> None:
        problem = Problem(
            type=PROBLEM + error.kind,
            title=error.title,
            status=error.status,
            detail=error.detail,
            field=error.field or msgspec.UNSET,
            request_id=exchange.request_id,
            model_version=self._model_version,
        )
        body = msgspec.json.encode(problem)
        await respond(send, body, _PROBLEM_JSON, status=error.status, headers=_headers_of(error))


def _is_open_inference(scope: Scope) -> bool:
    path: str = scope["path"].removeprefix(scope.get("root_path", ""))
    return path == "/v2" or path.startswith("/v2/")


async def _answer_in_protocol(error: ServiceError, send: Send) -> None:
    """Errors in the form of the open inference protocol."""
    said = f"{error.field}: {error.detail}" if error.field else error.detail
    body = msgspec.json.encode({"error": said})
    await respond(send, body, status=error.status, headers=_headers_of(error))


def _headers_of(error: ServiceError) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode()) for name, value in error.headers.items()]


def as_service_error(exc: Exception, scope: Scope) -> ServiceError:
    """Converts Starlette's errors and unexpected exceptions."""
    if isinstance(exc, ServiceError):
        return exc
    if isinstance(exc, HTTPException) and exc.status_code in _FROM_STARLETTE:
        headers = {name.lower(): value for name, value in (exc.headers or {}).items()}
        path, method = scope["path"], scope["method"]
        detail = f"there is nothing at {path}; /docs lists what there is"
        if "allow" in headers:
            headers["allow"] = ", ".join(sorted(headers["allow"].split(", ")))
            detail = f"{path} does not take {method}, expected {headers['allow']}"
        return _FROM_STARLETTE[exc.status_code](detail, headers=headers)
    return InternalError("not the caller's fault; look up the request id in the logs")


# The event domain that the release manager sets; no API Gateway has it.
RELEASE_MANAGER = "release-manager"


def is_invoked(scope: Scope) -> bool:
    """Whether the Lambda function was invoked directly, which IAM permits only authorised callers.

    The event context is written by the front door (API Gateway, function URL, load balancer) with
    its own domain; nothing that a caller sends is part of it.
    """
    event = scope.get("aws.event")
    if not event:
        return False
    context = event.get("requestContext") or {}
    return bool(context.get("domainName") == RELEASE_MANAGER)


def header(scope: Scope, name: bytes) -> bytes | None:
    """The first header of that lower-case name."""
    for key, value in scope["headers"]:
        if key == name:
            return bytes(value)
    return None


async def respond(
    send: Send,
    body: bytes,
    content_type: bytes = JSON,
    *,
    status: int = 200,
    headers: Iterable[tuple[bytes, bytes]] = (),
) -> None:
    fixed = [(b"content-type", content_type), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": [*fixed, *headers]})
    await send({"type": "http.response.body", "body": body})
