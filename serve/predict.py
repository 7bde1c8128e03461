"""The two routes that the service is for: /predict and /predict/batch."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import msgspec
import numpy as np
from starlette.types import Receive, Scope, Send

from serve.answers import prediction
from serve.batching import Batcher
from serve.bodies import Options, Upload, many_images, one_image, read_body
from serve.call import KEY, Call
from serve.envelope import PROBLEM, respond
from serve.errors import ServiceError
from serve.images import Codec, Pixels, is_quick
from serve.keys import KeyRing
from serve.predictor import Predictor
from serve.schemas import BatchItem, BatchResponse, ItemError, PredictResponse, Timing
from serve.settings import Settings

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
        """Ends the threads."""
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
    """In their order; in as many threads as there are processors where the files are not tiny."""
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
