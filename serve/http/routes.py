"""The API: one table of endpoints, and their implementations.

The application's routes, the OpenAPI document and the route labels of telemetry come from this
table.
"""

import asyncio
import base64
import hashlib
import io
import time
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from common.images import HAS_AVIF, Pixels
from common.model.artifact import ArtifactMetadata
from common.saliency import IMAGES as SALIENCY_IMAGES
from serve.errors import (
    PROBLEM,
    CaptureOff,
    InvalidField,
    Overloaded,
    ServiceError,
    UnsupportedMediaType,
)
from serve.exchange import KEY, Exchange
from serve.http.bodies import (
    Options,
    Upload,
    decoded,
    many_images,
    media_type,
    one_image,
    read_body,
)
from serve.http.middleware import respond
from serve.http.schemas import (
    BatchItem,
    BatchResponse,
    Feedback,
    FeedbackResponse,
    ItemError,
    ModelInfo,
    PredictResponse,
    RequestLimits,
    Sample,
    Samples,
    Status,
    Timing,
)
from serve.http.service import Decoded, Readiness, Service, prediction
from serve.settings import MAX_IMAGES, Settings

GetEndpoint = Callable[[Request], Coroutine[Any, Any, Response]]
SITE = Path(__file__).parents[1] / "site"


class Endpoint(NamedTuple):
    """A method of a path; `operation` is its id in the OpenAPI document."""

    method: str
    path: str
    operation: str


_MODEL = "/v2/models/{name}"
_VERSION = f"{_MODEL}/versions/{{version}}"
ENDPOINTS = (
    Endpoint("POST", "/predict", "predict"),
    Endpoint("POST", "/predict/batch", "predictBatch"),
    Endpoint("POST", "/feedback", "sendFeedback"),
    Endpoint("GET", "/model/info", "getModelInfo"),
    Endpoint("GET", "/health", "getHealth"),
    Endpoint("GET", "/ready", "getReadiness"),
    Endpoint("GET", "/samples", "getSamples"),
    # The open inference protocol; the model version is optional.
    Endpoint("GET", "/v2", "getServerMetadata"),
    Endpoint("GET", "/v2/health/live", "getServerLive"),
    Endpoint("GET", "/v2/health/ready", "getServerReady"),
    Endpoint("GET", _MODEL, "getModelMetadata"),
    Endpoint("GET", f"{_MODEL}/config", "getModelConfig"),
    Endpoint("GET", f"{_MODEL}/ready", "getModelReady"),
    Endpoint("POST", f"{_MODEL}/infer", "inferModel"),
    Endpoint("GET", _VERSION, "getModelVersionMetadata"),
    Endpoint("GET", f"{_VERSION}/config", "getModelVersionConfig"),
    Endpoint("GET", f"{_VERSION}/ready", "getModelVersionReady"),
    Endpoint("POST", f"{_VERSION}/infer", "inferModelVersion"),
)


class KeptAnswers(Protocol):
    """Captured predictions and their labels."""

    def say(self, feedback: Feedback, caller: str, asked_at: float) -> bool:
        """Stores a label; false if the caller sent the same one before. May take as long as a store
        does.

        Args:
            caller: digest of its API key; "" for the release manager.
            asked_at: time.monotonic() of the request.

        Raises:
            UnknownAnswer: it was not captured, or is not found in time.
            Contradiction: the caller sent another label before.
            StoreUnavailable: the store does not respond.
        """


def api_routes(service: Service, answers: KeptAnswers | None = None) -> list[Route]:
    """A route for each endpoint of the table.

    Args:
        answers: captured predictions, if capture is on.
    """
    metadata = service.predictor.metadata
    readiness = Readiness(service.predictor)

    def ready() -> Status:
        readiness.check()
        return Status("ready", metadata.version)

    by_operation: dict[str, Any] = {
        "predict": PredictEndpoint(service),
        "predictBatch": PredictBatchEndpoint(service),
        "sendFeedback": FeedbackEndpoint(service, answers),
        "getModelInfo": _get(lambda: model_info(metadata, service.settings)),
        "getHealth": _get(lambda: Status("ok", metadata.version)),
        "getReadiness": _get(ready),
        "getSamples": unchanging(msgspec.json.encode(samples(metadata)), "application/json"),
    }
    protocol = OpenInference(service, readiness)
    return [
        Route(
            one.path,
            by_operation.get(one.operation, protocol),
            methods=[one.method],
            name=one.operation,
        )
        for one in ENDPOINTS
    ]


_encode = msgspec.json.Encoder().encode
_decode_feedback = msgspec.json.Decoder(Feedback)
_MOST_WAITING = 64  # labels that wait for the store


class PredictEndpoint:
    """POST /predict as an ASGI application."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        service, exchange = self._service, scope[KEY]
        service.keys.check(scope)
        body = await read_body(scope, receive, service.settings)
        exchange.decode_at = start = time.perf_counter()
        # Checked first: parsing a body that is then rejected costs time.
        service.batcher.check_room()
        uploads, options = self._parse(scope, body)
        exchange.waiting = service.batcher.admitted
        found = None
        with service.batcher.admission(SALIENCY_IMAGES if options.saliency else len(uploads)):
            decoded = await service.decode(exchange, uploads)
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
            raise InvalidField("saliency is turned off here (KILN_SALIENCY)", field="saliency")
        return [upload], options

    def _accepted(self, exchange: Exchange, decoded: list[Decoded]) -> list[Pixels]:
        """The images to run, without the rejected ones."""
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
        if exchange.refused:
            found = enumerate(decoded)
            exchange.places = [i for i, one in found if not isinstance(one, ServiceError)]
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


class FeedbackEndpoint:
    """POST /feedback as an ASGI application. A thread accesses the store, for one request at a
    time.
    """

    def __init__(self, service: Service, answers: KeptAnswers | None) -> None:
        self._service, self._answers = service, answers
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="feedback")
        self._waiting = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        caller = self._service.keys.caller(scope)
        body = await read_body(scope, receive, self._service.settings)
        if (kind := media_type(scope, body)) != "json":
            raise UnsupportedMediaType(f"expected JSON, got {kind}", field="content-type")
        feedback: Feedback = decoded(_decode_feedback, body)
        if feedback.label not in self._service.classes:
            known = ", ".join(self._service.classes[:20])
            raise InvalidField(f"the model knows no such class, expected one of {known}", "label")
        if self._answers is None:
            raise CaptureOff("no answer is kept here, so that none can be labelled (KILN_CAPTURE)")
        is_new = await self._say(self._answers, feedback, caller)
        answer = FeedbackResponse(feedback.request_id, feedback.index, feedback.label, is_new)
        await respond(send, _encode(answer), status=201 if is_new else 200)

    async def _say(self, answers: KeptAnswers, feedback: Feedback, caller: str) -> bool:
        if self._waiting >= _MOST_WAITING:
            raise Overloaded(
                f"{self._waiting} labels wait for the store", headers={"retry-after": "1"}
            )
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(
                self._thread, answers.say, feedback, caller, time.monotonic()
            )
        finally:
            self._waiting -= 1


def _item_error(error: ServiceError) -> ItemError:
    return ItemError(
        PROBLEM + error.kind, error.title, error.status, error.detail, error.field or ""
    )


def _timing(exchange: Exchange) -> Timing:
    total = time.perf_counter() - exchange.start
    seconds = (exchange.decode_s, exchange.queue_s, exchange.infer_s, total)
    return Timing(*(round(second * 1e3, 3) for second in seconds))


class OpenInference:
    """The open inference protocol as an ASGI application, imported at its first request."""

    def __init__(self, service: Service, readiness: Readiness) -> None:
        self._service, self._readiness = service, readiness

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        from serve.http.open_inference import answer

        await answer(self._service, self._readiness, scope, receive, send)


_NO_STORE = {"cache-control": "no-store"}
IMAGE_TYPES = ["image/png", "image/jpeg", "image/webp", "image/gif", "image/bmp"]
IMAGE_TYPES += ["image/avif"] if HAS_AVIF else []


def model_info(metadata: ArtifactMetadata, settings: Settings) -> ModelInfo:
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


def _get(answer: Callable[[], msgspec.Struct]) -> GetEndpoint:
    """A GET endpoint with Cache-Control: no-store."""

    async def respond_with_json(_: Request) -> Response:
        return Response(_encode(answer()), media_type="application/json", headers=_NO_STORE)

    return respond_with_json


def unchanging(
    body: bytes, kind: str, headers: Mapping[str, str] = MappingProxyType({})
) -> GetEndpoint:
    """An endpoint whose content is constant during the process's life, with an ETag."""
    tag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
    cached = {"cache-control": "no-cache", "etag": tag}
    whole = {**cached, "content-type": kind, **headers}

    async def answer(request: Request) -> Response:
        if tag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=cached)
        return Response(body, headers=whole)

    return answer


def samples(metadata: ArtifactMetadata) -> Samples:
    """Sample images: one of each class of CIFAR-10, or those in the artifact.

    The latter are labelled with the model's predictions at export.
    """
    bundled = msgspec.json.decode((SITE / "samples.json").read_bytes(), type=Samples)
    if {sample.label for sample in bundled.samples} <= set(metadata.classes):
        return bundled
    height, width = metadata.input_size
    images = np.frombuffer(metadata.parity.images, np.uint8).reshape(-1, height, width, 3)
    labels = [metadata.classes[int(np.argmax(row))] for row in metadata.parity.probabilities]
    pairs = zip(labels, images, strict=True)
    return Samples([Sample(label, _data_url(image)) for label, image in pairs])


def _data_url(image: NDArray[np.uint8]) -> str:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
