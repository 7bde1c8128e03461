"""The service as an ASGI application: routes, middleware and CORS."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, NoReturn

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request

from serve.exchange import Observer
from serve.http.middleware import RequestMiddleware
from serve.http.pages import page_routes
from serve.http.routes import KeptAnswers, PredictEndpoint, api_routes
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
