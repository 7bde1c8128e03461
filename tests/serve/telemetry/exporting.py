"""The service in this process, with telemetry on."""

import contextlib
import logging
import os
from collections.abc import Iterator

import pytest
from starlette.testclient import TestClient

from serve.http.app import create_app
from serve.settings import Settings
from serve.telemetry.telemetry import Telemetry
from tests.serve.serving import base64_of, bundled_predictor, image_file, pixels

NEVER = {  # but when flushed
    "OTEL_METRIC_EXPORT_INTERVAL": "3600000",
    "OTEL_BSP_SCHEDULE_DELAY": "3600000",
    "OTEL_BLRP_SCHEDULE_DELAY": "3600000",
}
BODY = {"image": base64_of(image_file(pixels()))}


@contextlib.contextmanager
def service(url: str, **variables: str) -> Iterator[tuple[Telemetry, TestClient]]:
    """The application in this process, exporting to `url` when it is told to."""
    environment = NEVER | {"OTEL_EXPORTER_OTLP_ENDPOINT": url} | variables
    settings = Settings(cpus=1, access_log="all")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        logger = logging.getLogger("serve.telemetry.logs")
        patch.setattr(logger, "level", logging.INFO)
        predictor = bundled_predictor()
        telemetry = Telemetry.start(settings, predictor.metadata, os.environ)
        app = create_app(predictor, settings, observer=telemetry.observer)
        try:
            yield telemetry, TestClient(app, raise_server_exceptions=False)
        finally:
            telemetry.close(0.1)
