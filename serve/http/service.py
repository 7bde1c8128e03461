"""The model behind its queue, shared by all endpoints: decoding, inference, readiness."""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from common.images import Codec, ImageError, Pixels, bytes_behind, image_type, is_quick
from common.model.artifact import ArtifactError
from common.saliency import occluded, saliency
from serve.errors import ImageTooLarge, NotReady, ServiceError, UnreadableImage, UnsupportedImage
from serve.exchange import Exchange
from serve.http.bodies import Options, Upload
from serve.http.keys import KeyRing
from serve.http.schemas import ClassScore, Prediction
from serve.inference.predictor import Batcher, Predictor
from serve.settings import Settings

Decoded = Pixels | ServiceError
# Keyed by the exception's name, which is the same in common/images.py.
_REFUSED = {kind.__name__: kind for kind in (ImageTooLarge, UnreadableImage, UnsupportedImage)}


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
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def decode(self, exchange: Exchange, uploads: list[Upload]) -> list[Decoded]:
        """Pixels or errors in the order of the files; in threads unless all files are tiny."""
        exchange.trailing = trailing = list[str]()
        if all(isinstance(one.data, ServiceError) or is_quick(one.data) for one in uploads):
            return [self._decode(one, trailing) for one in uploads]
        loop = asyncio.get_running_loop()
        return await asyncio.gather(
            *(loop.run_in_executor(self._threads, self._decode, one, trailing) for one in uploads)
        )

    async def predict(self, exchange: Exchange, images: Pixels) -> None:
        """Records the model's probabilities for (n, H, W, 3) pixels in the exchange."""
        done = await self.batcher(images)
        exchange.images, exchange.probabilities = images, done.probabilities
        exchange.queue_s, exchange.infer_s, exchange.batch = done.queue_s, done.infer_s, done.batch

    async def explain(self, exchange: Exchange, images: Pixels) -> list[list[float]]:
        """The same for (1, H, W, 3) pixels, and their saliency map.

        The exchange, and so drift and telemetry, only see the original image.
        """
        await self.predict(exchange, occluded(images[0]))
        assert exchange.probabilities is not None
        found = saliency(exchange.probabilities)
        exchange.images, exchange.probabilities = images, exchange.probabilities[:1]
        return [[round(value, _MAP_DECIMALS) for value in row] for row in found.tolist()]

    def _decode(self, upload: Upload, trailing: list[str]) -> Decoded:
        if isinstance(upload.data, ServiceError):
            return upload.data
        try:
            pixels = self.codec.decode(upload.data)
        except ImageError as exc:
            return refusal(exc, upload.field)
        if bytes_behind(upload.data):
            trailing.append(str(image_type(upload.data)))
        return pixels


def refusal(error: ImageError, field: str | None = None) -> ServiceError:
    """The service's error for an image that its codec rejects."""
    return _REFUSED[type(error).__name__](str(error), field)


_DECIMALS, _MAP_DECIMALS = 6, 3


def prediction(row: NDArray[np.float32], classes: tuple[str, ...], options: Options) -> Prediction:
    """The K probabilities of one image as a response."""
    scores = [round(score, _DECIMALS) for score in row.tolist()]
    order = sorted(range(len(scores)), key=scores.__getitem__, reverse=True)[: options.top_k]
    top = [ClassScore(classes[index], index, scores[index]) for index in order]
    best = top[0]
    every: Any = dict(zip(classes, scores, strict=True)) if options.probabilities else msgspec.UNSET
    return Prediction(best.label, best.index, best.probability, top, every)


_RECHECK_S = 5.0


class Readiness:
    """Whether the session still reproduces the artifact's parity vector; the result is cached."""

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor
        self._good_until = 0.0

    def check(self) -> None:
        """Passes, or raises.

        Raises:
            NotReady: the session's predictions are wrong.
        """
        if time.monotonic() < self._good_until:
            return
        try:
            self._predictor.check()
        except ArtifactError as exc:
            raise NotReady(str(exc), headers={"retry-after": "5"}) from exc
        self._good_until = time.monotonic() + _RECHECK_S
