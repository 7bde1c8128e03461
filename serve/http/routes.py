"""The API: one table of its endpoints, and what answers each of them.

The application is assembled from the table, the OpenAPI document lists it, and telemetry names
requests by the route that the application found.
"""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from common.images import Codec, ImageError, Pixels, is_quick
from common.model.artifact import ArtifactError, ArtifactMetadata
from common.saliency import IMAGES as SALIENCY_IMAGES
from common.saliency import occluded, saliency
from serve.errors import (
    PROBLEM,
    ImageTooLarge,
    InvalidField,
    NotReady,
    ServiceError,
    UnreadableImage,
    UnsupportedImage,
)
from serve.exchange import KEY, Exchange
from serve.http.bodies import Options, Upload, many_images, one_image, read_body
from serve.http.keys import KeyRing
from serve.http.middleware import respond
from serve.http.pages import samples, unchanging
from serve.http.schemas import (
    BatchItem,
    BatchResponse,
    ClassScore,
    ItemError,
    ModelInfo,
    Prediction,
    PredictResponse,
    RequestLimits,
    Status,
    Timing,
)
from serve.inference.batching import Batcher
from serve.inference.predictor import Predictor
from serve.settings import MAX_IMAGES, Settings


class Endpoint(NamedTuple):
    """A method of a path; `operation` is its id in the OpenAPI document."""

    method: str
    path: str
    operation: str


ENDPOINTS = (
    Endpoint("POST", "/predict", "predict"),
    Endpoint("POST", "/predict/batch", "predictBatch"),
    Endpoint("GET", "/model/info", "getModelInfo"),
    Endpoint("GET", "/health", "getHealth"),
    Endpoint("GET", "/ready", "getReadiness"),
    Endpoint("GET", "/samples", "getSamples"),
)


def api_routes(service: "Service") -> list[Route]:
    """A route for each endpoint of the table."""
    metadata = service.predictor.metadata
    readiness = Readiness(service.predictor)

    def ready() -> Status:
        readiness.check()
        return Status("ready", metadata.version)

    answers: dict[str, Any] = {
        "predict": PredictEndpoint(service),
        "predictBatch": PredictBatchEndpoint(service),
        "getModelInfo": _get(lambda: model_info(metadata, service.settings)),
        "getHealth": _get(lambda: Status("ok", metadata.version)),
        "getReadiness": _get(ready),
        "getSamples": unchanging(msgspec.json.encode(samples(metadata)), "application/json"),
    }
    return [
        Route(one.path, answers[one.operation], methods=[one.method], name=one.operation)
        for one in ENDPOINTS
    ]


Decoded = Pixels | ServiceError
# By the name that an error has in common/images.py, too.
_REFUSED = {kind.__name__: kind for kind in (ImageTooLarge, UnreadableImage, UnsupportedImage)}
_encode = msgspec.json.Encoder().encode


class Service:
    """The model behind its queue, the image codec, and threads for large images."""

    def __init__(self, predictor: Predictor, settings: Settings) -> None:
        self.predictor, self.settings = predictor, settings
        self.classes, self.version = predictor.metadata.classes, predictor.version
        self.keys = KeyRing(settings.api_keys)
        metadata = predictor.metadata
        self.codec = Codec(metadata.input_size, settings.max_pixels, metadata.resize)
        self.batcher = Batcher(
            predictor, settings.max_batch, settings.max_queue, settings.deadline_ms / 1e3
        )
        self._threads = ThreadPoolExecutor(settings.cpus, thread_name_prefix="decode")

    def close(self) -> None:
        """Stops the threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def decode(self, uploads: list[Upload]) -> list[Decoded]:
        """Pixels or errors in the order of the files, in threads unless all files are tiny."""
        if all(isinstance(one.data, ServiceError) or is_quick(one.data) for one in uploads):
            return [self._decode(one) for one in uploads]
        loop = asyncio.get_running_loop()
        return await asyncio.gather(
            *(loop.run_in_executor(self._threads, self._decode, one) for one in uploads)
        )

    async def predict(self, exchange: Exchange, images: Pixels) -> None:
        """Fills in what the model says of (n, H, W, 3) pixels."""
        done = await self.batcher(images)
        exchange.images, exchange.probabilities = images, done.probabilities
        exchange.queue_s, exchange.infer_s, exchange.batch = done.queue_s, done.infer_s, done.batch

    async def explain(self, exchange: Exchange, images: Pixels) -> list[list[float]]:
        """The same for (1, H, W, 3) pixels, and the map of what the answer looked at.

        What is told of the exchange, to drift and telemetry too, is of the image that came.
        """
        await self.predict(exchange, occluded(images[0]))
        assert exchange.probabilities is not None
        found = saliency(exchange.probabilities)
        exchange.images, exchange.probabilities = images, exchange.probabilities[:1]
        return [[round(value, _MAP_DECIMALS) for value in row] for row in found.tolist()]

    def _decode(self, upload: Upload) -> Decoded:
        if isinstance(upload.data, ServiceError):
            return upload.data
        try:
            return self.codec.decode(upload.data)
        except ImageError as exc:
            return _REFUSED[type(exc).__name__](str(exc), upload.field)


class PredictEndpoint:
    """POST /predict, an ASGI application."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        service, exchange = self._service, scope[KEY]
        service.keys.check(scope)
        body = await read_body(scope, receive, service.settings)
        exchange.decode_at = start = time.perf_counter()
        service.batcher.check_room()  # parsing a body that is then turned away costs time
        uploads, options = self._parse(scope, body)
        exchange.waiting = service.batcher.admitted
        found = None
        with service.batcher.admission(SALIENCY_IMAGES if options.saliency else len(uploads)):
            decoded = await service.decode(uploads)
            exchange.decode_s = time.perf_counter() - start
            if pixels := self._accepted(exchange, decoded):
                images = pixels[0][np.newaxis] if len(pixels) == 1 else np.stack(pixels)
                if options.saliency:
                    found = await service.explain(exchange, images)
                else:
                    await service.predict(exchange, images)
        exchange.encode_at = start = time.perf_counter()
        content = self._answer(exchange, decoded, options)
        if found is not None and isinstance(content, PredictResponse):
            content.saliency = found
        answer = _encode(content)
        exchange.encode_s = time.perf_counter() - start
        await respond(send, answer)

    def _parse(self, scope: Scope, body: bytes) -> tuple[list[Upload], Options]:
        upload, options = one_image(scope, body)
        if options.saliency and not self._service.settings.saliency:
            raise InvalidField(
                "this service does not show what it looked at (KILN_SALIENCY)", field="saliency"
            )
        return [upload], options

    def _accepted(self, exchange: Exchange, decoded: list[Decoded]) -> list[Pixels]:
        """The images that the model is to see."""
        (one,) = decoded
        if isinstance(one, ServiceError):
            raise one
        return [one]

    def _answer(
        self, exchange: Exchange, decoded: list[Decoded], options: Options
    ) -> PredictResponse | BatchResponse:
        assert exchange.probabilities is not None
        found = prediction(exchange.probabilities[0], self._service.classes, options)
        return PredictResponse(
            found.label,
            found.index,
            found.probability,
            found.top_k,
            found.probabilities,
            model_version=self._service.version,
            request_id=exchange.request_id,
            timing=_timing(exchange),
        )


class PredictBatchEndpoint(PredictEndpoint):
    """POST /predict/batch: each image succeeds or fails on its own."""

    def _parse(self, scope: Scope, body: bytes) -> tuple[list[Upload], Options]:
        return many_images(scope, body)

    def _accepted(self, exchange: Exchange, decoded: list[Decoded]) -> list[Pixels]:
        exchange.refused = [one.kind for one in decoded if isinstance(one, ServiceError)]
        return [one for one in decoded if not isinstance(one, ServiceError)]

    def _answer(
        self, exchange: Exchange, decoded: list[Decoded], options: Options
    ) -> BatchResponse:
        rows = iter(() if exchange.probabilities is None else exchange.probabilities)
        classes = self._service.classes
        results = [
            BatchItem(index, error=_item_error(one))
            if isinstance(one, ServiceError)
            else BatchItem(index, prediction=prediction(next(rows), classes, options))
            for index, one in enumerate(decoded)
        ]
        failed = len(exchange.refused)
        return BatchResponse(
            results,
            len(decoded) - failed,
            failed,
            self._service.version,
            exchange.request_id,
            _timing(exchange),
        )


_DECIMALS, _MAP_DECIMALS = 6, 3


def prediction(row: NDArray[np.float32], classes: tuple[str, ...], options: Options) -> Prediction:
    """The K probabilities of one image, named."""
    scores = [round(score, _DECIMALS) for score in row.tolist()]
    order = sorted(range(len(scores)), key=scores.__getitem__, reverse=True)[: options.top_k]
    top = [ClassScore(classes[index], index, scores[index]) for index in order]
    best = top[0]
    every: Any = dict(zip(classes, scores, strict=True)) if options.probabilities else msgspec.UNSET
    return Prediction(best.label, best.index, best.probability, top, every)


def _item_error(error: ServiceError) -> ItemError:
    return ItemError(
        PROBLEM + error.kind, error.title, error.status, error.detail, error.field or ""
    )


def _timing(exchange: Exchange) -> Timing:
    total = time.perf_counter() - exchange.start
    seconds = (exchange.decode_s, exchange.queue_s, exchange.infer_s, total)
    return Timing(*(round(second * 1e3, 3) for second in seconds))


IMAGE_TYPES = ["image/png", "image/jpeg", "image/webp", "image/gif", "image/bmp"]
_RECHECK_S = 5.0
_NO_STORE = {"cache-control": "no-store"}


class Readiness:
    """Whether the session still gives the artifact's own answers; asked now and then."""

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor
        self._good_until = 0.0

    def check(self) -> None:
        """Passes, or says why not.

        Raises:
            NotReady: the session's answers are wrong.
        """
        if time.monotonic() < self._good_until:
            return
        try:
            self._predictor.check()
        except ArtifactError as exc:
            raise NotReady(str(exc), headers={"retry-after": "5"}) from exc
        self._good_until = time.monotonic() + _RECHECK_S


def model_info(metadata: ArtifactMetadata, settings: Settings) -> ModelInfo:
    """The answer of /model/info."""
    facts = {
        name: getattr(metadata, name) for name in ModelInfo.__struct_fields__ if name != "limits"
    }
    return ModelInfo(
        **facts,
        limits=RequestLimits(
            settings.max_body_bytes,
            settings.max_pixels,
            MAX_IMAGES,
            SALIENCY_IMAGES if settings.saliency else 0,
            IMAGE_TYPES,
        ),
    )


def _get(answer: Callable[[], msgspec.Struct]) -> Callable[[Request], Any]:
    """An endpoint that nothing may store."""

    async def respond_with_json(_: Request) -> Response:
        return Response(_encode(answer()), media_type="application/json", headers=_NO_STORE)

    return respond_with_json
