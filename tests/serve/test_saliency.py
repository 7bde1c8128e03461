"""What an answer looked at: the map points where the model looks, and counts as fifty images."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from starlette.testclient import TestClient

from common.saliency import GRID, IMAGES, occluded, saliency
from serve.exchange import Exchange
from serve.http.app import create_app
from serve.inference.predictor import Predictor
from serve.settings import Settings
from tests.serve.serving import (
    MODEL,
    base64_of,
    bundled_predictor,
    client,
    image_file,
    pixels,
    problem_of,
)

EDGE = 32
CAT = 3


class Corner(Predictor):
    """Sure of a cat where the lower right corner is bright, and of nothing else."""

    def __init__(self) -> None:
        super().__init__(MODEL.read_bytes())
        self.answered = 0

    def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        self.answered += len(images)
        bright = images[:, -4:, -4:].mean(axis=(1, 2, 3)) / 255
        answers = np.full((len(images), 10), 0.05, np.float32)
        answers[:, CAT] = bright
        return answers


def bright_corner() -> NDArray[np.uint8]:
    image = np.zeros((EDGE, EDGE, 3), np.uint8)
    image[-4:, -4:] = 255
    return image


@pytest.fixture
def corner() -> Corner:
    return Corner()


@pytest.fixture
def service(corner: Corner) -> Iterator[TestClient]:
    with client(corner) as running:
        yield running


PNG = image_file(bright_corner())


@pytest.mark.parametrize(
    "sent",
    [
        {"json": {"image": base64_of(PNG), "saliency": True}},
        {"content": PNG, "params": {"saliency": "true"}, "headers": {"content-type": "image/png"}},
        {"files": {"image": PNG}, "data": {"saliency": "true"}},
    ],
)
def test_the_map_points_to_the_corner_that_decides(
    service: TestClient, corner: Corner, sent: Any
) -> None:
    answer = service.post("/predict", **sent).json()
    found = np.array(answer["saliency"])
    assert answer["label"] == "cat"
    assert answer["probability"] == 1
    assert found.shape == (GRID, GRID)
    assert int(found.argmax()) == found.size - 1
    covered = 4 / 255  # the mean of an image of which a sixty-fourth is white
    fall = np.log((1 - 1e-6) / 1e-6) - np.log(covered / (1 - covered))
    assert found[-1, -1] == pytest.approx(fall, abs=1e-2)
    assert found[-1, -2] == pytest.approx(fall / 2, abs=1e-2)  # one of its two covers
    assert not found[:-2].any()
    assert not found[:, :-2].any()
    assert corner.answered == IMAGES == 50


def test_without_being_asked_for_there_is_no_map(service: TestClient, corner: Corner) -> None:
    assert "saliency" not in service.post("/predict", json={"image": base64_of(PNG)}).json()
    assert corner.answered == 1


def test_the_map_is_what_the_served_model_says_of_covered_images() -> None:
    predictor, image = bundled_predictor(), pixels(3)
    with client(predictor) as service:
        body = {"image": base64_of(image_file(image)), "saliency": True, "probabilities": True}
        answer = service.post("/predict", json=body).json()
        plain = service.post("/predict", json=body | {"saliency": False}).json()
    expected = saliency(predictor(occluded(image)))
    np.testing.assert_allclose(answer["saliency"], expected, atol=2e-3)
    assert answer["probabilities"] == pytest.approx(plain["probabilities"], abs=1e-5)


@pytest.mark.parametrize("shape", [(32, 32), (8, 8), (5, 7), (1, 1), (30, 224)])
def test_covers_reach_every_pixel_of_any_size(shape: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    images = occluded(image)
    assert images.shape == (IMAGES, *shape, 3)
    np.testing.assert_array_equal(images[0], image)
    covered = (images[1:] == image.mean(axis=(0, 1)).round().astype(np.uint8)).all(axis=3)
    assert covered.any(axis=0).all()


def test_a_part_that_speaks_against_the_answer_is_negative() -> None:
    probabilities = np.full((IMAGES, 2), 0.5, np.float32)
    probabilities[0] = [0.6, 0.4]
    probabilities[1:] = [0.6, 0.4]
    probabilities[1] = [0.9, 0.1]  # under the first cover
    assert saliency(probabilities)[0, 0] == pytest.approx(np.log(1.5) - np.log(9), abs=1e-5)


def test_drift_and_telemetry_see_the_image_that_came(corner: Corner) -> None:
    seen: list[Exchange] = []

    def observe(exchange: Exchange, method: str, path: str) -> None:
        seen.append(exchange)

    app = create_app(corner, Settings(cpus=1), observer=observe)
    with TestClient(app) as service:
        service.post("/predict", json={"image": base64_of(PNG), "saliency": True})
    (exchange,) = seen
    assert exchange.images is not None
    assert exchange.probabilities is not None
    np.testing.assert_array_equal(exchange.images, bright_corner()[np.newaxis])
    assert exchange.probabilities.shape == (1, 10)


def test_a_map_needs_room_for_fifty_images(corner: Corner) -> None:
    app = create_app(corner, Settings(cpus=1, max_queue=100))
    routes: Any = app.routes
    (endpoint,) = [one.endpoint for one in routes if one.name == "predict"]
    endpoint._service.batcher.admitted = 60
    with TestClient(app) as service:
        body = {"image": base64_of(PNG)}
        assert service.post("/predict", json=body | {"saliency": True}).status_code == 503
        assert service.post("/predict", json=body).status_code == 200


@pytest.mark.parametrize(
    ("environment", "offered"),
    [
        ({}, True),
        ({"AWS_LAMBDA_RUNTIME_API": "127.0.0.1:9001"}, False),
        ({"AWS_LAMBDA_RUNTIME_API": "127.0.0.1:9001", "KILN_SALIENCY": "true"}, True),
        ({"KILN_SALIENCY": "false"}, False),
    ],
)
def test_lambda_offers_no_map_unless_it_is_asked_for(
    corner: Corner, environment: dict[str, str], offered: bool
) -> None:
    settings = Settings.from_environment(environment)
    with TestClient(create_app(corner, settings)) as service:
        limits = service.get("/model/info").json()["limits"]
        answer = service.post("/predict", json={"image": base64_of(PNG), "saliency": True})
        asked_wrongly = service.post(
            "/predict?saliency=1", content=PNG, headers={"content-type": "image/png"}
        )
    assert limits["saliency_images"] == (IMAGES if offered else 0)
    assert (answer.status_code == 200) == offered
    if not offered:
        assert problem_of(answer)["field"] == "saliency"
    assert problem_of(asked_wrongly)["field"] == "saliency"


@pytest.mark.parametrize(
    "sent",
    [
        {"json": {"images": [base64_of(PNG)], "saliency": True}},
        {"files": [("images", PNG)], "data": {"saliency": "true"}},
    ],
)
def test_batches_show_no_maps(service: TestClient, sent: Any) -> None:
    problem = problem_of(service.post("/predict/batch", **sent))
    assert problem["status"] == 422
    assert "saliency" in problem["detail"] + problem.get("field", "")
