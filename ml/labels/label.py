"""Labels captured images by keyboard on a local page: bazel run //ml:label

Images on which the model was unsure, or that look unlike its test images, are sampled more often.
Every label is stored at once, so the same command resumes.

  bazel run //ml:label                    # prints the page's address; Ctrl-C stops
  bazel run //ml:label -- --labeller ada  # a second labeller gets the same images, for comparison
  bazel run //ml:label -- --captures s3://bucket/captures

Exit codes: 0 stopped by Ctrl-C, 1 nothing to label, 2 bad input.
"""

import argparse
import hmac
import re
import secrets
import socket
import sys
import webbrowser
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path

import msgspec
import uvicorn
from rich.console import Console
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from common.captures import Captures, usual_location
from common.command_line import command_parser
from common.model.artifact import ArtifactError, DriftReference
from common.objects import StoreError
from common.programs import this_user
from common.stores import open_store
from common.terminal import Progress, terminal
from ml.labels.main import add_captures, labeller_name
from ml.labels.session import SIZE, Refused, Session
from ml.labels.tables import LabelsError, class_names, metadata_of

NOTHING, BAD_INPUT = 1, 2
PAGE = Path(__file__).with_name("page.html")
_MOST_BYTES = 4096  # of a request's body


def open_session(options: argparse.Namespace) -> Session | None:
    """The labeller's round; None if nothing is left to label.

    Raises:
        LabelsError, ArtifactError, StoreError: the input cannot be used.
    """
    captures = Captures(open_store(options.captures or usual_location()))

    @cache
    def reference_of(version: str) -> DriftReference | None:
        metadata = metadata_of(version, options.registry)
        return metadata.drift_reference if metadata else None

    with Progress("reading captures"):
        versions = {row.model_version for row in captures.answers()}
        if not versions:
            return None
        session = Session(
            captures,
            options.labeller,
            class_names(versions, options.model, options.registry),
            reference_of,
            size=options.size,
            shows_answers=options.show_answers,
        )
    return session if session.round else None


def main(arguments: Sequence[str], console: Console) -> int:
    options = _parser().parse_args(arguments)
    try:
        session = open_session(options)
    except (LabelsError, ArtifactError, StoreError) as exc:
        console.print(str(exc), style="red", markup=False, highlight=False, soft_wrap=True)
        return BAD_INPUT
    where = options.captures or usual_location()
    if session is None:
        console.print(f"Nothing is captured in {where}", markup=False, soft_wrap=True)
        return NOTHING
    with socket.create_server(("127.0.0.1", options.port)) as listener:
        port, token = listener.getsockname()[1], new_token()
        url = f"http://127.0.0.1:{port}/{token}/"
        console.print(
            f"{session.labeller} labels {where}\n{url}\nLabels are stored at once. Ctrl-C stops.",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
        if options.open:
            webbrowser.open(url)
        config = uvicorn.Config(
            labelling_app(session, token, port), log_level="warning", access_log=False
        )
        with suppress(KeyboardInterrupt):  # uvicorn re-raises the signal after shutting down
            uvicorn.Server(config).run(sockets=[listener])
    state = session.state()
    console.print(f"{state['done']} of {state['total']} labelled in round {state['round']}")
    return 0


def _usual_labeller() -> str:
    name = re.sub(r"[^a-z0-9._-]+", "-", this_user().partition("@")[0].lower())
    return name.lstrip("._-")[:40] or "me"


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("//ml:label", __doc__)
    add = parser.add_argument
    add_captures(parser)
    add(
        "--labeller",
        type=labeller_name,
        default=_usual_labeller(),
        metavar="NAME",
        help="name of the labeller (default: %(default)s)",
    )
    add(
        "--size",
        type=int,
        default=SIZE,
        metavar="N",
        help="images per round (default: %(default)s)",
    )
    add(
        "--show-answers",
        action="store_true",
        help="show the model's prediction before labelling, which biases labels towards it",
    )
    add("--port", type=int, default=0, help="(default: a free one)")
    add("--open", action="store_true", help="open the page in a browser")
    return parser


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


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], terminal()))
