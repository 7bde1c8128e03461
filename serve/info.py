"""Routes that say how the service is and what it serves."""

import time
from dataclasses import asdict

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from serve.contract.artifact import ArtifactError, ArtifactMetadata
from serve.errors import NotReady
from serve.predictor import Predictor
from serve.schemas import Limits, ModelInfo, Status, TestMetrics
from serve.settings import MAX_IMAGES, Settings

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
    """What /model/info answers."""
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
