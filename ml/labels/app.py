"""The labelling page's server, on loopback, for whoever has the address that it printed.

GET requests never write. Every request carries the random token of the address and this server's
host name, and POSTs must come from this page, so no other page in the browser can read images or
write labels.
"""

import hmac
import secrets
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from common.objects import StoreError
from ml.labels.session import Refused, Session

PAGE = Path(__file__).with_name("page.html")
_MOST_BYTES = 4096  # of a request's body


class Said(msgspec.Struct, forbid_unknown_fields=True):
    """The body of a POST; `label` is used by one action only."""

    request_id: str = ""
    index: int = 0
    label: str = ""

    @property
    def key(self) -> tuple[str, int]:
        return self.request_id, self.index


def new_token() -> str:
    """The secret part of the page's address."""
    return secrets.token_urlsafe(18)


def labelling_app(session: Session, token: str, port: int) -> Starlette:
    """The page and its four actions below ``/<token>/``."""
    hosts = {f"127.0.0.1:{port}", f"localhost:{port}"}

    def acts(action: Callable[[Said], None] | None) -> Callable[[Request], Awaitable[Response]]:
        async def answer(request: Request) -> Response:
            if refused := _refused(request, token, hosts):
                return refused
            if action is None:
                return _private(JSONResponse(session.state()))
            body = await request.body()
            try:
                action(msgspec.json.decode(body[:_MOST_BYTES] or b"{}", type=Said))
            except (Refused, msgspec.MsgspecError) as exc:
                return JSONResponse({"error": str(exc)}, 422)
            except StoreError as exc:
                return JSONResponse({"error": f"Not written: {exc}"}, 503)
            return _private(JSONResponse(session.state()))

        return answer

    async def page(request: Request) -> Response:
        if refused := _refused(request, token, hosts):
            return refused
        nonce = secrets.token_urlsafe(12)
        text = PAGE.read_text(encoding="utf-8").replace("NONCE", nonce)
        answer = HTMLResponse(text)
        answer.headers["Content-Security-Policy"] = (
            f"default-src 'none'; img-src data:; script-src 'nonce-{nonce}'; "
            f"style-src 'nonce-{nonce}'; connect-src 'self'; base-uri 'none'; "
            "form-action 'none'; frame-ancestors 'none'"
        )
        return _private(answer)

    actions: dict[str, Callable[[Said], None]] = {
        "label": lambda said: session.say(said.key, said.label),
        "undo": lambda _: session.undo(),
        "skip": lambda said: session.skip(said.key),
        "more": lambda _: (session.next_round(), None)[1],
    }
    return Starlette(
        routes=[
            Route("/{token}/", page, methods=["GET"]),
            Route("/{token}/state", acts(None), methods=["GET"]),
            *(
                Route(f"/{{token}}/{name}", acts(action), methods=["POST"])
                for name, action in actions.items()
            ),
        ]
    )


def _refused(request: Request, token: str, hosts: set[str]) -> Response | None:
    """The response to requests that do not come from this page."""
    if not hmac.compare_digest(request.path_params["token"].encode(), token.encode()):
        return PlainTextResponse("Open the address that bazel run //ml:label printed.", 404)
    if request.headers.get("host") not in hosts:  # another host name that resolves to this machine
        return PlainTextResponse("This page has another address.", 421)
    if request.method == "GET":
        return None
    origin = request.headers.get("origin", "")
    if origin.removeprefix("http://") not in hosts:
        return PlainTextResponse("Not from another page.", 403)
    if request.headers.get("content-type") != "application/json":
        return PlainTextResponse("Expected application/json.", 415)
    return None


def _private(response: Response) -> Response:
    response.headers["Cache-Control"] = "no-store"
    response.headers["Referrer-Policy"] = "no-referrer"
    response.headers["X-Content-Type-Options"] = "nosniff"
    return response
