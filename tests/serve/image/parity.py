"""The same images through every door of the image: what each answers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infra.twin.image.container import Root
from tests.serve.aws_lambda.events import function_url, http_api, rest_api, status_and_json
from tests.serve.aws_lambda.function import function
from tests.serve.image.http_service import serving
from tests.serve.serving import base64_of, image_file

# The number of images decides the route, and the batch that the session sees.
COUNTS = (1, 2, 7, 100)

Send = Callable[[str, dict[str, Any]], tuple[int, Any]]


@contextmanager
def doors(root: Root, model: Path | None = None) -> Iterator[dict[str, Send]]:
    """How to ask the image: over HTTP, and by events of Lambda.

    Args:
        root: the unpacked image.
        model: an artifact in place of the image's own.
    """
    instead = {"/opt/model/model.onnx": model} if model else {}
    with ExitStack() as stack:
        service = stack.enter_context(serving(root, instead=instead))
        api = stack.enter_context(function(root, instead=instead)).api
        ways: dict[str, Send] = {"HTTP": service.request}
        for name, door, encoded in (
            ("HTTP API", http_api, False),
            ("REST API", rest_api, True),
            ("function URL", function_url, True),
        ):

            def send(path: str, body: Any, door: Any = door, encoded: bool = encoded) -> Any:
                content, headers = json.dumps(body).encode(), {"content-type": "application/json"}
                return status_and_json(api.invoke(door("POST", path, content, headers, encoded)))

            ways[name] = send
        yield ways


def ask(send: Send, images: NDArray[np.uint8], classes: tuple[str, ...]) -> NDArray[np.float64]:
    """(N, H, W, 3) as PNG files; (N, K) probabilities."""
    files = [base64_of(image_file(image)) for image in images]
    options = {"probabilities": True}
    if len(files) == 1:
        status, answer = send("/predict", {"image": files[0], **options})
        assert status == 200, answer
        found = [answer["probabilities"]]
    else:
        status, answer = send("/predict/batch", {"images": files, **options})
        assert status == 200, answer
        assert answer["succeeded"] == len(files), answer
        found = [item["prediction"]["probabilities"] for item in answer["results"]]
    return np.array([[row[label] for label in classes] for row in found])
