"""serve/http/routes.py: the two routes that the service is for."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from tests.serve.serving import (
    base64_of,
    bundled_predictor,
    client,
    image_file,
    pixels,
    problem_of,
)

PNG = image_file(pixels())


@pytest.fixture(scope="module")
def service() -> Iterator[TestClient]:
    with client(max_body_bytes=400_000, max_pixels=1_000_000, deadline_ms=600_000) as running:
        yield running


def test_predict_names_the_classes_that_the_model_finds_most_probable(service: TestClient) -> None:
    predictor = bundled_predictor()
    row = predictor(pixels()[np.newaxis])[0]
    answer = service.post("/predict", json={"image": base64_of(PNG)}).json()
    assert answer["index"] == int(row.argmax())
    assert answer["label"] == predictor.metadata.classes[answer["index"]]
    assert answer["probability"] == pytest.approx(float(row.max()), abs=1e-5)
    assert [one["probability"] for one in answer["top_k"]] == pytest.approx(
        sorted(row, reverse=True)[:3], abs=1e-5
    )
    assert answer["model_version"] == predictor.version
    assert set(answer["timing"]) == {"decode_ms", "queue_ms", "infer_ms", "total_ms"}
    assert "probabilities" not in answer


def test_all_probabilities_come_on_request(service: TestClient) -> None:
    body = {"image": base64_of(PNG), "probabilities": True, "top_k": 1000}
    answer = service.post("/predict", json=body).json()
    assert sum(answer["probabilities"].values()) == pytest.approx(1, abs=1e-4)
    assert len(answer["top_k"]) == len(answer["probabilities"]) == 10


@pytest.mark.parametrize(
    "request_of",
    [
        lambda: {"json": {"image": "data:image/png;base64," + base64_of(PNG)}},
        lambda: {"content": PNG, "headers": {"content-type": "image/png"}},
        lambda: {"content": PNG, "headers": {"content-type": "application/octet-stream"}},
        lambda: {"content": PNG},
        lambda: {"files": {"image": ("a.png", PNG, "image/png")}},
    ],
    ids=["data URL", "image/png", "octet-stream", "no content type", "form"],
)
def test_every_form_of_the_same_image_gets_the_same_answer(
    service: TestClient, request_of: Any
) -> None:
    expected = service.post("/predict", json={"image": base64_of(PNG)}).json()
    answer = service.post("/predict", **request_of())
    assert answer.status_code == 200, answer.text
    assert answer.json()["top_k"] == expected["top_k"]


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP"])
@pytest.mark.parametrize("trailer", [b"\n", b"\xff", bytes(4096), image_file(pixels(9), "JPEG")])
def test_what_follows_an_image_is_ignored_in_every_form(
    service: TestClient, kind: str, trailer: bytes
) -> None:
    image = image_file(pixels(1, 60, 80), kind)
    longer = image + trailer
    expected = service.post("/predict", content=image).json()["top_k"]
    encoded = base64_of(longer)
    alone: list[dict[str, Any]] = [
        {"json": {"image": encoded}},
        {"json": {"image": "data:image/x;base64," + encoded}},
        {"content": longer, "headers": {"content-type": "image/x"}},
        {"content": longer},
        {"files": {"image": ("a", longer)}},
    ]
    for form in alone:
        answer = service.post("/predict", **form)
        assert answer.status_code == 200, answer.text
        assert answer.json()["top_k"] == expected
    batches: list[dict[str, Any]] = [
        {"json": {"images": [encoded]}},
        {"files": {"images": ("a", longer)}},
    ]
    for form in batches:
        [result] = service.post("/predict/batch", **form).json()["results"]
        assert result["prediction"]["top_k"] == expected


def test_what_follows_an_image_counts_for_the_size_of_the_body(service: TestClient) -> None:
    problem = problem_of(service.post("/predict", content=PNG + bytes(400_001 - len(PNG))))
    assert problem["status"] == 413


def test_options_of_a_bare_image_are_query_parameters(service: TestClient) -> None:
    headers = {"content-type": "image/png"}
    url = "/predict?top_k=1&probabilities=true"
    answer = service.post(url, content=PNG, headers=headers).json()
    assert len(answer["top_k"]) == 1
    assert len(answer["probabilities"]) == 10


def test_one_bad_image_does_not_fail_the_others(service: TestClient) -> None:
    images = [base64_of(PNG), "nonsense", None, base64_of(PNG[:100]), base64_of(PNG)]
    answer = service.post("/predict/batch", json={"images": images})
    body = answer.json()
    assert answer.status_code == 200
    assert (body["succeeded"], body["failed"]) == (2, 3)
    assert ["prediction" in item for item in body["results"]] == [True, False, False, False, True]
    assert [item["error"]["field"] for item in body["results"] if "error" in item] == [
        "images[1]",
        "images[2]",
        "images[3]",
    ]
    alone = service.post("/predict", json={"image": images[0]}).json()
    assert body["results"][4]["prediction"]["label"] == alone["label"]


def test_a_batch_of_a_hundred_is_answered_in_its_order(service: TestClient) -> None:
    images = [base64_of(image_file(pixels(seed))) for seed in range(4)]
    alone = [service.post("/predict", json={"image": image}).json()["top_k"] for image in images]
    answer = service.post("/predict/batch", json={"images": images * 12 + images[:3]}).json()
    assert answer["succeeded"] == 51
    for index, item in enumerate(answer["results"]):
        assert item["index"] == index
        for found, expected in zip(item["prediction"]["top_k"], alone[index % 4], strict=True):
            assert found["probability"] == pytest.approx(expected["probability"], abs=2e-6)


def test_a_form_may_hold_many_images(service: TestClient) -> None:
    files = [("images", (f"{seed}.png", image_file(pixels(seed)))) for seed in range(3)]
    answer = service.post("/predict/batch", files=files, data={"top_k": "1"}).json()
    assert answer["succeeded"] == 3
    assert all(len(item["prediction"]["top_k"]) == 1 for item in answer["results"])


@pytest.mark.parametrize(
    ("path", "body", "status", "field"),
    [
        ("/predict", b"", 415, "content-type"),
        ("/predict", b"{", 400, "body"),
        ("/predict", b'{"image": "QUJD"} trailing', 400, "body"),
        ("/predict", b"\xff\xfe", 400, "body"),
        ("/predict", b"{}", 422, "image"),
        ("/predict", b'{"image": 7}', 422, "image"),
        ("/predict", b'{"image": ""}', 422, "image"),
        ("/predict", b'{"image": "%%%"}', 422, "image"),
        ("/predict", b'{"image": "QUJDRA==QUJD"}', 422, "image"),
        ("/predict", b'{"image": "QUJD*RA=="}', 422, "image"),
        ("/predict", b'{"image": "data:image/png,abc"}', 422, "image"),
        ("/predict", b'{"image": "QUJD"}', 415, "image"),
        ("/predict", b'{"image": "QUJD", "top_k": 0}', 422, "top_k"),
        ("/predict", b'{"image": "QUJD", "topk": 1}', 422, "topk"),
        ("/predict", b'["QUJD"]', 422, "body"),
        ("/predict", b'{"image": "' + b"Q" * 400_000 + b'"}', 413, "body"),
        ("/predict/batch", b'{"images": []}', 422, "images"),
        ("/predict/batch", b'{"images": "QUJD"}', 422, "images"),
        ("/predict/batch", b'{"images": [' + b'"QUJD",' * 100 + b'"QUJD"]}', 422, "images"),
    ],
)
def test_bad_json_is_refused_with_the_field(
    service: TestClient, path: str, body: bytes, status: int, field: str
) -> None:
    headers = {"content-type": "application/json"} if body else {}
    response = service.post(path, content=body, headers=headers)
    problem = problem_of(response)
    assert (response.status_code, problem["field"]) == (status, field), problem


@pytest.mark.parametrize(
    ("path", "content_type", "body", "status", "field"),
    [
        ("/predict", "text/plain", PNG, 415, "content-type"),
        ("/predict", "application/x-www-form-urlencoded", b"image=QUJD", 415, "content-type"),
        ("/predict", "image/png", b"", 415, "body"),
        ("/predict", "image/png", b"no image", 415, "body"),
        ("/predict", "image/png", PNG[:-200], 422, "body"),
        ("/predict", "image/png", PNG[:-200] + b"more", 422, "body"),
        ("/predict?top_k=x", "image/png", PNG, 422, "top_k"),
        ("/predict?probabilities=1", "image/png", PNG, 422, "probabilities"),
        ("/predict/batch", "image/png", PNG, 415, "content-type"),
        ("/predict", "multipart/form-data", PNG, 400, "content-type"),
        ("/predict", "multipart/form-data; boundary=x", PNG, 400, "body"),
        ("/predict", "multipart/form-data; boundary=x", b"--x--\r\n", 422, "image"),
    ],
)
def test_other_bad_bodies_are_refused_with_the_field(
    service: TestClient, path: str, content_type: str, body: bytes, status: int, field: str
) -> None:
    response = service.post(path, content=body, headers={"content-type": content_type})
    problem = problem_of(response)
    assert (response.status_code, problem["field"]) == (status, field), problem


def test_a_body_without_a_length_is_limited_all_the_same(service: TestClient) -> None:
    response = service.post("/predict", content=iter([b"x" * 50_000] * 10))
    assert problem_of(response)["type"] == "urn:kiln:problem:body-too-large"


def test_an_image_of_too_many_pixels_is_stopped_before_it_is_decoded(service: TestClient) -> None:
    bomb = bytearray(image_file(pixels(0, 8, 8), "BMP"))
    bomb[18:26] = (60_000).to_bytes(4, "little") * 2
    response = service.post("/predict", json={"image": base64_of(bytes(bomb))})
    problem = problem_of(response)
    assert (problem["status"], problem["field"]) == (413, "image")
    assert "60000 x 60000 pixels" in problem["detail"]


@pytest.mark.parametrize("query", ["top_k=0", "top_k=x", "probabilities=1"])
@pytest.mark.parametrize(
    ("path", "sent"),
    [
        ("/predict", {"json": {"image": base64_of(PNG)}}),
        ("/predict/batch", {"json": {"images": [base64_of(PNG)]}}),
        ("/predict", {"files": {"image": ("a.png", PNG)}, "data": {"top_k": "1"}}),
    ],
    ids=["JSON", "batch", "form"],
)
def test_options_in_the_query_that_make_no_sense_are_refused_whatever_the_body_is(
    service: TestClient, path: str, sent: Any, query: str
) -> None:
    response = service.post(f"{path}?{query}", **sent)
    assert response.status_code == 422
    assert problem_of(response)["field"] == query.partition("=")[0]


def test_a_form_with_odd_bytes_is_refused_without_a_word_in_the_log(
    service: TestClient, caplog: pytest.LogCaptureFixture
) -> None:
    response = service.post(
        "/predict",
        content=b"--x\r\nname\xc3: y\r\n\r\n--x--\r\n",
        headers={"content-type": "multipart/form-data; boundary=x"},
    )
    assert response.status_code == 400
    assert [one for one in caplog.records if one.name.startswith("python_multipart")] == []
