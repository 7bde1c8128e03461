"""Lambda's invocation APIs, in front of moto's server.

moto would start Docker containers for them; here the data plane handles them.
"""

from __future__ import annotations

import base64
import json
import re
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any
from urllib.parse import parse_qs, unquote

from infra.twin.cloud.data_plane import DataPlane, TooLarge
from infra.twin.cloud.fleet import Throttled
from infra.twin.cloud.targets import UnknownFunction

Environ = Mapping[str, Any]
Application = Callable[[Any, Any], Iterable[bytes]]
_INVOCATION = re.compile(r"/2015-03-31/functions/(?P<name>[^/]+)/invocations/?")
_SCOPE = re.compile(r"Credential=[^/]+/\d+/(?P<region>[^/]+)/(?P<service>[^/]+)/")
# Services whose store the data plane writes into, which moto reads without a lock; and S3, which
# looks whether an object is there and writes it in one step, where moto takes two.
_SHARED = ("logs", "monitoring", "s3")


class _Refusal(Exception):
    def __init__(self, status: str, kind: str, document: Mapping[str, str]) -> None:
        super().__init__(kind)
        self.status, self.kind, self.document = status, kind, document


class LambdaApi:
    """A WSGI application: invocations go to the data plane, everything else to moto."""

    data_plane: DataPlane  # set before the first call: functions need this server's address

    def __init__(self, moto: Application, region: str, store: threading.RLock) -> None:
        self._moto, self._region, self._store = moto, region, store

    def __call__(self, environ: Environ, start_response: Any) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        match = _INVOCATION.fullmatch(path)
        scope = _SCOPE.search(environ.get("HTTP_AUTHORIZATION", ""))
        if match and environ["REQUEST_METHOD"] == "POST":
            region = scope["region"] if scope else self._region
            return self._invoke(environ, start_response, region, unquote(match["name"]))
        if scope and scope["service"] in _SHARED:
            with self._store:
                return self._moto(environ, start_response)
        return self._moto(environ, start_response)

    def _invoke(
        self, environ: Environ, start_response: Any, region: str, name: str
    ) -> Iterable[bytes]:
        event = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        query = parse_qs(environ.get("QUERY_STRING", ""))
        qualifier = query.get("Qualifier", [None])[0]
        kind = environ.get("HTTP_X_AMZ_INVOCATION_TYPE", "RequestResponse")
        try:
            status, headers, body = self._answer(environ, region, name, qualifier, event, kind)
        except _Refusal as refusal:
            status, body = refusal.status, json.dumps(refusal.document).encode()
            headers = {"x-amzn-ErrorType": refusal.kind}
        headers |= {"Content-Type": "application/json", "Content-Length": str(len(body))}
        start_response(status, list(headers.items()))
        return [body]

    def _answer(
        self,
        environ: Environ,
        region: str,
        name: str,
        qualifier: str | None,
        event: bytes,
        kind: str,
    ) -> tuple[str, dict[str, str], bytes]:
        try:
            json.loads(event or b"{}")
        except ValueError as error:
            message = {
                "Type": "User",
                "message": f"Could not parse request body into json: {error}",
            }
            raise _Refusal("400 Bad Request", "InvalidRequestContentException", message) from error
        try:
            if kind == "Event":
                request_id = self.data_plane.invoke_later(region, name, qualifier, event)
                return "202 Accepted", {"x-amzn-RequestId": request_id}, b""
            trace_id = environ.get("HTTP_X_AMZN_TRACE_ID")
            outcome = self.data_plane.invoke(region, name, qualifier, event, trace_id)
        except UnknownFunction as error:
            message = {"Type": "User", "Message": f"Function not found: {error}"}
            raise _Refusal("404 Not Found", "ResourceNotFoundException", message) from error
        except Throttled as error:
            message = {"Type": "User", "Reason": error.reason, "message": "Rate Exceeded."}
            raise _Refusal("429 Too Many", "TooManyRequestsException", message) from error
        except TooLarge as error:
            message = {"Type": "User", "message": str(error)}
            raise _Refusal("413 Too Large", "RequestTooLargeException", message) from error
        headers = {
            "X-Amz-Executed-Version": outcome.version,
            "x-amzn-RequestId": outcome.request_id,
        }
        if outcome.failed:
            headers["X-Amz-Function-Error"] = "Unhandled"
        if environ.get("HTTP_X_AMZ_LOG_TYPE") == "Tail":
            headers["X-Amz-Log-Result"] = base64.b64encode(outcome.log_tail).decode()
        return "200 OK", headers, outcome.payload
