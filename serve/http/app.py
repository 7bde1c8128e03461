"""The service as an ASGI application: routes, static pages, middleware and CORS."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NoReturn

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from serve.exchange import Observer
from serve.http.middleware import RequestMiddleware
from serve.http.routes import (
    SITE,
    GetEndpoint,
    KeptAnswers,
    PredictEndpoint,
    api_routes,
    unchanging,
)
from serve.http.service import Service
from serve.inference.predictor import Predictor
from serve.settings import Settings

# CORS rules. A test compares these lists with infra/terraform/roots/service/api.tf.
CORS: dict[str, Any] = {
    "allow_methods": ["GET", "POST"],
    "allow_headers": [
        "authorization",
        "content-type",
        "inference-header-content-length",
        "traceparent",
        "tracestate",
        "x-api-key",
    ],
    "expose_headers": [
        "inference-header-content-length",
        "retry-after",
        "x-model-version",
        "x-request-id",
    ],
    "max_age": 3600,
}


def create_app(
    predictor: Predictor,
    settings: Settings,
    *,
    observer: Observer | None = None,
    at_end: Callable[[], None] | None = None,
    answers: KeptAnswers | None = None,
) -> Starlette:
    """Creates the application around one predictor.

    Args:
        observer: called after every request.
        at_end: called after the last request.
        answers: captured predictions that callers may label.
    """
    service = Service(predictor, settings)
    routes = api_routes(service, answers)
    around_requests = Middleware(
        RequestMiddleware,
        model_version=predictor.version,
        root_path=settings.root_path,
        observer=observer,
        direct=[route for route in routes if isinstance(route.endpoint, PredictEndpoint)],
    )

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        service.close()
        if at_end is not None:
            at_end()

    app = Starlette(
        routes=[*routes, *page_routes()],
        middleware=[*_cors(settings), around_requests],
        exception_handlers={HTTPException: _leave_to_middleware},
        lifespan=lifespan,
    )
    # A redirect names a host and a path, and behind a proxy's prefix both would be wrong.
    app.router.redirect_slashes = False
    return app


def _cors(settings: Settings) -> list[Middleware]:
    """CORS for a service that is reached directly, or through a proxy that does not handle CORS.

    On AWS the HTTP API handles CORS, including preflights and its own 401 and 429 responses, and
    ignores these headers. Function URLs, whose callers sign requests, have no CORS of their own.
    """
    if not settings.cors_origins:
        return []
    return [Middleware(CORSMiddleware, allow_origins=settings.cors_origins, **CORS)]


async def _leave_to_middleware(_: Request, exc: Exception) -> NoReturn:
    raise exc


_SHARED = ("style.css", "icon.svg", "demo.js", "docs.js")
_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".svg": "image/svg+xml",
}
_PAGE_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "img-src 'self' data: blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "referrer-policy": "no-referrer",
}


def page_routes() -> list[Route]:
    """/, /docs, /openapi.json and the files of the pages.

    Pages use relative URLs only, so they work below any prefix.
    """
    files = {name: _file(name) for name in _SHARED}

    async def shared(request: Request) -> Response:
        if (answer := files.get(request.path_params["file"])) is None:
            raise HTTPException(404)
        return await answer(request)

    return [
        Route("/", _file("demo.html")),
        Route("/docs", _file("docs.html")),
        Route("/openapi.json", _file("openapi.json")),
        Route("/site/{file}", shared),
    ]


def _file(name: str) -> GetEndpoint:
    body, suffix = (SITE / name).read_bytes(), Path(name).suffix
    return unchanging(body, _TYPES[suffix], _PAGE_HEADERS if suffix == ".html" else {})
