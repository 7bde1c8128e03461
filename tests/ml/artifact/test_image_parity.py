"""PyTorch = ONNX = simplified = the built image, over HTTP and by Lambda's events."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from common.model.artifact import INPUT, PROBABILITIES
from infra.twin.image.container import Root
from ml.artifact.evaluation import torch_probabilities
from ml.artifact.export import to_onnx
from tests.ml.artifact.small_model import CLASSES, MEAN, STD, Sample, sample
from tests.serve.image import built
from tests.serve.image.parity import COUNTS, Send, ask, doors

pytestmark = built.needs_image
root = built.root

TOLERANCE = 1e-5


@dataclass(frozen=True)
class Chain:
    """One network in each of its forms."""

    trained: Sample
    onnx: ort.InferenceSession
    simplified: ort.InferenceSession
    image: dict[str, Send]

    def images(self, count: int) -> NDArray[np.uint8]:
        return np.resize(self.trained.images, (count, *self.trained.images.shape[1:]))


@pytest.fixture(scope="module")
def chain(root: Root, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    trained, path = sample(), tmp_path_factory.mktemp("export") / "model.onnx"
    report = trained.export(path)
    assert report.simplification.startswith("simplified")
    full = to_onnx(trained.network, trained.images.shape[1:3], MEAN, STD)
    cpu = ["CPUExecutionProvider"]
    with doors(root, model=path) as image:
        yield Chain(
            trained,
            ort.InferenceSession(full.SerializeToString(), providers=cpu),
            ort.InferenceSession(path, providers=cpu),
            image,
        )


@pytest.mark.parametrize("count", COUNTS)
def test_every_form_of_a_network_answers_alike(chain: Chain, count: int) -> None:
    images = chain.images(count)
    expected = torch_probabilities(chain.trained.network, images, MEAN, STD)
    answers = {
        "ONNX": chain.onnx.run([PROBABILITIES], {INPUT: images})[0],
        "simplified": chain.simplified.run([PROBABILITIES], {INPUT: images})[0],
        **{way: ask(send, images, CLASSES) for way, send in chain.image.items()},
    }
    assert {form: answer.shape for form, answer in answers.items()} == dict.fromkeys(
        answers, (count, len(CLASSES))
    )
    gaps = {form: float(np.abs(answer - expected).max()) for form, answer in answers.items()}
    assert max(gaps.values()) <= TOLERANCE, gaps
