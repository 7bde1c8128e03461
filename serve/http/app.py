"""The service as an ASGI application: routes and middleware."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import NoReturn

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.routing import Route

from serve.call import Observer
from serve.http.middleware import Envelope
from serve.http.pages import page_routes
from serve.http.routes import Predict, PredictBatch, Service, information_routes
from serve.inference.predictor import Predictor
from serve.settings import Settings


def create_app(
    predictor: Predictor,
    settings: Settings,
    *,
    observer: Observer | None = None,
    middleware: Sequence[Middleware] = (),
    at_end: Callable[[], None] | None = None,
) -> Starlette:
    """The application around one predictor.

    Args:
        observer: is told of every request.
        middleware: outermost layers, before ours.
        at_end: is called when the last request was answered.
    """
    service = Service(predictor, settings)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        service.close()
        if at_end is not None:
            at_end()

    app = Starlette(
        routes=[
            Route("/predict", Predict(service), methods=["POST"]),
            Route("/predict/batch", PredictBatch(service), methods=["POST"]),
            *information_routes(predictor, settings),
            *page_routes(predictor.metadata),
        ],
        middleware=[*middleware, *_cors(settings), _envelope(predictor, settings, observer)],
        exception_handlers={HTTPException: _leave_to_envelope},
        lifespan=lifespan,
    )
    # A redirect names a host and a path, and behind a proxy's prefix both would be wrong.
    app.router.redirect_slashes = False
    return app


def _envelope(predictor: Predictor, settings: Settings, observer: Observer | None) -> Middleware:
    return Middleware(
        Envelope,
        model_version=predictor.version,
        root_path=settings.root_path,
        observer=observer,
    )


def _cors(settings: Settings) -> list[Middleware]:
    """For a service that is asked directly, or through a proxy that leaves CORS alone.

    On AWS the HTTP API speaks instead (infra/terraform/roots/service/api.tf), by the same lists: it
    answers preflights, its own refusals (401, 429) carry the headers, too, and it ignores what
    is said here. Function URLs, whose callers sign, have no CORS of their own.
    """
    if not settings.cors_origins:
        return []
    return [
        Middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "POST"],
            allow_headers=[
                "authorization",
                "content-type",
                "traceparent",
                "tracestate",
                "x-api-key",
            ],
            expose_headers=["retry-after", "x-model-version", "x-request-id"],
            max_age=3600,
        )
    ]


async def _leave_to_envelope(_: Request, exc: Exception) -> NoReturn:
    raise exc
