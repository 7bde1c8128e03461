"""The API's routes: predictions, and information about the service and its model."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from common.model.artifact import ArtifactError, ArtifactMetadata
from serve.call import KEY, Call
from serve.errors import NotReady, ServiceError
from serve.http.bodies import Options, Upload, many_images, one_image, read_body
from serve.http.keys import KeyRing
from serve.http.middleware import PROBLEM, respond
from serve.http.schemas import (
    BatchItem,
    BatchResponse,
    ClassScore,
    ItemError,
    Limits,
    ModelInfo,
    Prediction,
    PredictResponse,
    Status,
    TestMetrics,
    Timing,
)
from serve.inference.batching import Batcher
from serve.inference.images import Codec, Pixels, is_quick
from serve.inference.predictor import Predictor
from serve.settings import MAX_IMAGES, Settings

_DECIMALS = 6


def prediction(row: NDArray[np.float32], classes: tuple[str, ...], options: Options) -> Prediction:
    """The K probabilities of one image, named."""
    scores = [round(score, _DECIMALS) for score in row.tolist()]
    order = sorted(range(len(scores)), key=scores.__getitem__, reverse=True)[: options.top_k]
    top = [ClassScore(classes[index], index, scores[index]) for index in order]
    best = top[0]
    every: Any = dict(zip(classes, scores, strict=True)) if options.probabilities else msgspec.UNSET
    return Prediction(best.label, best.index, best.probability, top, every)


_encode = msgspec.json.Encoder().encode


class Service:
    """What both routes share: the model behind its queue, the codec, threads for large images."""

    def __init__(self, predictor: Predictor, settings: Settings) -> None:
        self.settings = settings
        self.classes, self.version = predictor.metadata.classes, predictor.version
        self.keys = KeyRing(settings.api_keys)
        self.codec = Codec(predictor.metadata.input_size, settings.max_pixels)
        self.batcher = Batcher(
            predictor, settings.max_batch, settings.max_queue, settings.deadline_ms / 1e3
        )
        self._threads = ThreadPoolExecutor(settings.cpus, thread_name_prefix="decode")

    def close(self) -> None:
        """Stops the threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def elsewhere(self, work: Callable[[], "Decoded"]) -> "Decoded":
        """The result of work that would hold the event loop up, from another thread."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def decode(self, upload: Upload) -> "Decoded":
        """The pixels, or the error with the field's name."""
        if isinstance(upload.data, ServiceError):
            return upload.data
        try:
            return self.codec.decode(upload.data)
        except ServiceError as error:
            error.field = upload.field
            return error


Decoded = Pixels | ServiceError


class Predict:
    """POST /predict, an ASGI application."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        service, call = self._service, scope[KEY]
        service.keys.check(scope)
        body = await read_body(scope, receive, service.settings)
        call.decode_at = start = time.perf_counter()
        call.waiting = service.batcher.admitted
        with service.batcher.admission(1):
            upload, options = one_image(scope, body)
            if isinstance(upload.data, ServiceError) or is_quick(upload.data):
                pixels = service.decode(upload)
            else:
                pixels = await service.elsewhere(lambda: service.decode(upload))
            if isinstance(pixels, ServiceError):
                raise pixels
            images = pixels[np.newaxis]
            call.decode_s = time.perf_counter() - start
            await _answer(service, call, images)
        call.encode_at = start = time.perf_counter()
        answer = _encode(_single(service, call, options))
        call.encode_s = time.perf_counter() - start
        await respond(send, answer)


class PredictBatch:
    """POST /predict/batch, an ASGI application."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        service, call = self._service, scope[KEY]
        service.keys.check(scope)
        body = await read_body(scope, receive, service.settings)
        call.decode_at = start = time.perf_counter()
        uploads, options = many_images(scope, body)
        call.waiting = service.batcher.admitted
        with service.batcher.admission(len(uploads)):
            decoded = await _decode_all(service, uploads)
            call.decode_s = time.perf_counter() - start
            pixels = [one for one in decoded if not isinstance(one, ServiceError)]
            call.refused = [one.kind for one in decoded if isinstance(one, ServiceError)]
            if pixels:
                await _answer(service, call, np.stack(pixels))
        call.encode_at = start = time.perf_counter()
        answer = _encode(_batch(service, call, decoded, options))
        call.encode_s = time.perf_counter() - start
        await respond(send, answer)


async def _decode_all(service: Service, uploads: list[Upload]) -> list[Decoded]:
    """Decodes images in their order, in as many threads as there are CPUs unless the files are
    tiny."""
    if all(isinstance(one.data, ServiceError) or is_quick(one.data) for one in uploads):
        return [service.decode(one) for one in uploads]
    return await asyncio.gather(
        *(service.elsewhere(lambda one=one: service.decode(one)) for one in uploads)  # type: ignore[misc]
    )


async def _answer(service: Service, call: Call, images: Pixels) -> None:
    answer = await service.batcher(images)
    call.images, call.probabilities = images, answer.probabilities
    call.queue_s, call.infer_s, call.batch = answer.queue_s, answer.infer_s, answer.batch


def _single(service: Service, call: Call, options: Options) -> PredictResponse:
    assert call.probabilities is not None
    found = prediction(call.probabilities[0], service.classes, options)
    return PredictResponse(
        found.label,
        found.index,
        found.probability,
        found.top_k,
        found.probabilities,
        model_version=service.version,
        request_id=call.request_id,
        timing=_timing(call),
    )


def _batch(service: Service, call: Call, decoded: list[Decoded], options: Options) -> BatchResponse:
    rows = iter(() if call.probabilities is None else call.probabilities)
    results = [
        BatchItem(index, error=_item_error(one))
        if isinstance(one, ServiceError)
        else BatchItem(index, prediction=prediction(next(rows), service.classes, options))
        for index, one in enumerate(decoded)
    ]
    failed = len(call.refused)
    succeeded = len(decoded) - failed
    return BatchResponse(
        results, succeeded, failed, service.version, call.request_id, _timing(call)
    )


def _item_error(error: ServiceError) -> ItemError:
    return ItemError(
        PROBLEM + error.kind, error.title, error.status, error.detail, error.field or ""
    )


def _timing(call: Call) -> Timing:
    total = time.perf_counter() - call.start
    seconds = (call.decode_s, call.queue_s, call.infer_s, total)
    return Timing(*(round(second * 1e3, 3) for second in seconds))


IMAGE_TYPES = ["image/png", "image/jpeg", "image/webp", "image/gif", "image/bmp"]
_RECHECK_S = 5.0
_NO_STORE = {"cache-control": "no-store"}


def information_routes(predictor: Predictor, settings: Settings) -> list[Route]:
    """/health, /ready and /model/info."""
    healthy = msgspec.json.encode(Status("ok", predictor.version))
    ready = msgspec.json.encode(Status("ready", predictor.version))
    info = msgspec.json.encode(model_info(predictor.metadata, settings))
    readiness = Readiness(predictor)

    async def answer_health(_: Request) -> Response:
        return _json(healthy)

    async def answer_ready(_: Request) -> Response:
        readiness.check()
        return _json(ready)

    async def answer_model_info(_: Request) -> Response:
        return _json(info)

    return [
        Route("/health", answer_health),
        Route("/ready", answer_ready),
        Route("/model/info", answer_model_info),
    ]


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
    return ModelInfo(
        name=metadata.name,
        version=metadata.version,
        classes=list(metadata.classes),
        input_size=list(metadata.input_size),
        quantisation=metadata.quantisation,
        opset=metadata.opset,
        git_revision=metadata.git_revision,
        config_digest=metadata.config_digest,
        dataset_digest=metadata.dataset_digest,
        lock_digest=metadata.lock_digest,
        device=metadata.device,
        precision=metadata.precision,
        test_metrics=TestMetrics(**asdict(metadata.test_metrics)),
        limits=Limits(settings.max_body_bytes, settings.max_pixels, MAX_IMAGES, IMAGE_TYPES),
    )


def _json(body: bytes) -> Response:
    return Response(body, media_type="application/json", headers=_NO_STORE)
