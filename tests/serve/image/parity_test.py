"""The image answers as the model that is in it does, and as PyTorch did when that was exported."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from common.model.artifact import INPUT, PROBABILITIES, read_artifact
from infra.twin.image.container import Root
from tests.serve.image import built
from tests.serve.image.parity import COUNTS, Send, ask, doors

pytestmark = built.needs_image
root = built.root

MODEL = Path(os.environ.get("MODEL", "ml/bundled/model.int8.onnx"))
METADATA = read_artifact(MODEL.read_bytes())
WAYS = ("HTTP", "HTTP API", "REST API", "function URL")
# Between this machine's batches; the session of the image is another one.
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def ways(root: Root) -> Iterator[dict[str, Send]]:
    with doors(root) as ways:
        yield ways


@pytest.fixture(scope="module")
def session() -> ort.InferenceSession:
    return ort.InferenceSession(MODEL, providers=["CPUExecutionProvider"])


def images(count: int) -> NDArray[np.uint8]:
    """Noise and gradients: (N, H, W, 3)."""
    height, width = METADATA.input_size
    random = np.random.default_rng(count)
    noise = random.integers(0, 128, (count, height, width, 3))
    shade = random.integers(0, 128, (count, 1, width, 3))
    return (noise + shade).astype(np.uint8)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("count", COUNTS)
def test_the_image_answers_as_its_model_does(
    ways: dict[str, Send], session: ort.InferenceSession, way: str, count: int
) -> None:
    expected = session.run([PROBABILITIES], {INPUT: images(count)})[0]
    found = ask(ways[way], images(count), METADATA.classes)
    assert np.abs(found - expected).max() <= TOLERANCE


@pytest.mark.parametrize("way", WAYS)
def test_the_image_answers_as_pytorch_did_at_export(ways: dict[str, Send], way: str) -> None:
    parity = METADATA.parity
    pixels = np.frombuffer(parity.images, np.uint8).reshape(-1, *METADATA.input_size, 3)
    found = ask(ways[way], pixels, METADATA.classes)
    assert np.abs(found - np.array(parity.probabilities)).max() <= parity.tolerance
