"""A service around the model that ships with Kiln, and images to send to it."""

import base64
import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from starlette.testclient import TestClient

from serve.http.app import create_app
from serve.inference.predictor import Predictor
from serve.settings import Settings

MODEL = Path(os.environ.get("KILN_TEST_MODEL", "ml/bundled/model.int8.onnx"))


def bundled_predictor() -> Predictor:
    """The model that the tests are built with."""
    return Predictor.load(MODEL)


def client(predictor: Predictor | None = None, **settings: Any) -> TestClient:
    """A client of a service with these settings."""
    app = create_app(predictor or bundled_predictor(), Settings(cpus=1, **settings))
    return TestClient(app, raise_server_exceptions=False)


def pixels(seed: int = 0, height: int = 32, width: int = 32) -> NDArray[np.uint8]:
    """(H, W, 3), reproducible noise over a gradient."""
    noise = np.random.default_rng(seed).integers(0, 96, (height, width, 3))
    gradient = np.linspace(0, 159, width)[np.newaxis, :, np.newaxis]
    return (noise + gradient).astype(np.uint8)


def image_file(image: NDArray[np.uint8] | Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """The file of an image."""
    if not isinstance(image, Image.Image):
        image = Image.fromarray(image)
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def base64_of(data: bytes) -> str:
    """As JSON carries it."""
    return base64.b64encode(data).decode()


def problem_of(response: Any) -> Mapping[str, Any]:
    """The problem document of an error, which has the right type and says its own status."""
    assert response.headers["content-type"] == "application/problem+json"
    problem: Mapping[str, Any] = response.json()
    assert problem["status"] == response.status_code
    assert problem["request_id"] == response.headers["x-request-id"]
    assert problem["model_version"] == response.headers["x-model-version"]
    return problem
