"""serve/capture/feedback.py: who may label which answer, and what is found in how much memory."""

import io
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from starlette.testclient import TestClient

from common.captures import Capture, Captures
from common.objects import FolderStore, StoreError
from serve.capture import feedback as module
from serve.capture.feedback import HOURS, AnswerIndex, StoredAnswers, labeller_of
from serve.capture.recorder import Recorder
from serve.http.app import create_app
from serve.http.keys import digest_of
from serve.settings import Settings
from tests.serve.serving import base64_of, bundled_predictor, image_file, pixels, problem_of

KEY, OTHER = "kiln_one", "kiln_two"
DIGESTS = (digest_of(KEY.encode()), digest_of(OTHER.encode()))
GOOD = base64_of(image_file(pixels()))


class Service:
    """One process of a service that captures everything."""

    def __init__(self, predictor: Any, folder: Path, **settings: Any) -> None:
        self.store: Any = FolderStore(folder)
        self.recorder = Recorder(lambda: self.store, predictor.version, 1.0, 1.0, age_s=3600)
        given = Settings(**{"cpus": 1, "api_keys": DIGESTS, "deadline_ms": 60_000, **settings})
        app = create_app(
            predictor,
            given,
            observer=self.recorder,
            answers=StoredAnswers(self.recorder, lambda: self.store),
        )
        self.client = TestClient(app, headers={"x-api-key": KEY}, raise_server_exceptions=False)

    def predict(self, *images: str) -> str:
        """The id of a request with these images."""
        path, body = (
            ("/predict", {"image": images[0]})
            if len(images) == 1
            else (
                "/predict/batch",
                {"images": images},
            )
        )
        return str(self.client.post(path, json=body).json()["request_id"])

    def say(self, request_id: str, label: str = "cat", key: str = KEY, **more: Any) -> Any:
        body = {"request_id": request_id, "label": label, **more}
        return self.client.post("/feedback", json=body, headers={"x-api-key": key})


@pytest.fixture(scope="module")
def predictor() -> Any:
    return bundled_predictor()


@pytest.fixture
def service(predictor: Any, tmp_path: Path) -> Iterator[Service]:
    one = Service(predictor, tmp_path)
    with one.client:
        yield one
    one.recorder.close(5)


def test_the_first_label_is_kept_the_same_one_is_known_and_another_is_refused(
    service: Service,
) -> None:
    asked = service.predict(GOOD)
    answers = [service.say(asked), service.say(asked), service.say(asked, "dog")]
    assert [answer.status_code for answer in answers] == [201, 200, 409]
    assert answers[0].json() == {"request_id": asked, "index": 0, "label": "cat", "is_new": True}
    assert answers[1].json()["is_new"] is False
    assert problem_of(answers[2])["type"] == "urn:kiln:problem:contradiction"
    (said,) = Captures(service.store).labels()
    assert (said.label, said.labeller, said.propensity) == ("cat", labeller_of(DIGESTS[0]), None)
    assert said.labeller != DIGESTS[0]


def test_callers_with_other_keys_are_other_labellers(service: Service) -> None:
    asked = service.predict(GOOD)
    assert service.say(asked).status_code == 201
    assert service.say(asked, "dog", OTHER).status_code == 201
    assert Captures(service.store).verdicts()[asked, 0].label is None  # they disagree


def test_equal_labels_at_once_are_one_statement(service: Service) -> None:
    asked = service.predict(GOOD)
    with ThreadPoolExecutor(8) as callers:
        found = list(callers.map(lambda _: service.say(asked).status_code, range(16)))
    assert sorted(found) == [200] * 15 + [201]
    assert len(Captures(service.store).labels()) == 1


def test_an_image_of_a_batch_is_named_by_its_place(service: Service) -> None:
    asked = service.predict(GOOD, "damaged", GOOD)
    assert service.say(asked, index=2.0).status_code == 201
    assert service.say(asked, index=2).status_code == 200
    assert problem_of(service.say(asked, index=1))["type"] == "urn:kiln:problem:unknown-answer"


def test_an_answer_is_found_in_memory_and_when_it_was_written(service: Service) -> None:
    first, second = service.predict(GOOD), service.predict(GOOD)
    assert service.say(first).status_code == 201
    assert service.recorder.flush(30)
    assert service.say(second).status_code == 201


def test_what_another_process_wrote_a_moment_ago_is_found(
    service: Service, predictor: Any, tmp_path: Path
) -> None:
    other = Service(predictor, tmp_path)
    with other.client:
        for _ in range(3):
            asked = other.predict(GOOD)
            missing = service.say(asked)
            assert problem_of(missing)["type"] == "urn:kiln:problem:unknown-answer"
            assert missing.headers["retry-after"] == "3600"
            assert other.recorder.flush(30)
            assert service.say(asked).status_code == 201
    other.recorder.close(5)


def test_what_is_forgotten_is_unknown(service: Service, predictor: Any, tmp_path: Path) -> None:
    asked, other = service.predict(GOOD), service.predict(GOOD)
    assert service.recorder.flush(30)
    assert Captures(service.store).forget(asked) == 1
    fresh = Service(predictor, tmp_path)
    with fresh.client:
        assert fresh.say(asked).status_code == 404
        assert fresh.say(other).status_code == 201
    fresh.recorder.close(5)


def test_answers_by_the_open_inference_protocol_are_kept_too(
    service: Service, predictor: Any
) -> None:
    data = np.stack([pixels(1), pixels(2)])
    tensor = {"name": "images", "datatype": "UINT8", "shape": list(data.shape)}
    response = service.client.post(
        f"/v2/models/{predictor.metadata.name}/infer",
        json={"inputs": [{**tensor, "data": data.ravel().tolist()}]},
    )
    assert response.status_code == 200
    asked = response.headers["x-request-id"]
    assert service.say(asked, index=1).status_code == 201
    assert service.recorder.flush(30)
    rows = list(Captures(service.store).rows())
    assert [np.asarray(Image.open(io.BytesIO(row.image))).tolist() for row in rows] == data.tolist()


def test_a_browser_of_an_origin_that_may_call_may_send_feedback(
    predictor: Any, tmp_path: Path
) -> None:
    origin = "https://example.org"
    asking = {
        "origin": origin,
        "access-control-request-method": "POST",
        "access-control-request-headers": "content-type,x-api-key",
    }
    one = Service(predictor, tmp_path, cors_origins=(origin,))
    with one.client:
        preflight = one.client.options("/feedback", headers=asking)
        response = one.client.post(
            "/feedback", json={"request_id": "0" * 32, "label": "cat"}, headers={"origin": origin}
        )
    assert preflight.status_code == 200
    assert response.status_code == 404
    assert response.headers["access-control-allow-origin"] == origin
    assert "retry-after" in response.headers["access-control-expose-headers"].lower()


@pytest.mark.parametrize(
    ("body", "status", "kind", "field"),
    [
        ({"request_id": "0" * 32, "label": "unicorn"}, 422, "invalid-field", "label"),
        ({"request_id": "0" * 31, "label": "cat"}, 422, "invalid-field", "request_id"),
        ({"request_id": "../" * 10 + "ab", "label": "cat"}, 422, "invalid-field", "request_id"),
        ({"request_id": "0" * 32, "label": "cat", "index": 100}, 422, "invalid-field", "index"),
        ({"request_id": "0" * 32, "label": "cat", "more": 1}, 422, "invalid-field", "more"),
        ({"request_id": "0" * 32}, 422, "invalid-field", "label"),
        ({"request_id": "0" * 32, "label": "cat"}, 404, "unknown-answer", "request_id"),
        ("{", 400, "malformed-json", "body"),
    ],
)
def test_what_makes_no_sense_is_said(
    service: Service, body: Any, status: int, kind: str, field: str
) -> None:
    text = body if isinstance(body, str) else json.dumps(body)
    response = service.client.post(
        "/feedback", content=text, headers={"content-type": "application/json"}
    )
    problem = problem_of(response)
    assert (response.status_code, problem["type"]) == (status, f"urn:kiln:problem:{kind}")
    assert problem["field"] == field


def test_another_body_than_json_is_refused(service: Service) -> None:
    response = service.client.post(
        "/feedback", content=b"GIF89a", headers={"content-type": "image/gif"}
    )
    assert problem_of(response)["type"] == "urn:kiln:problem:unsupported-media-type"


@pytest.mark.parametrize("keys", [(), DIGESTS])
def test_nobody_without_a_key_says_anything(
    predictor: Any, tmp_path: Path, keys: tuple[str, ...]
) -> None:
    one = Service(predictor, tmp_path, api_keys=keys)
    with one.client:
        response = one.say("0" * 32, key="wrong")
    assert response.status_code == 401
    assert response.headers["www-authenticate"] == 'Bearer realm="kiln"'
    assert ("KILN_API_KEYS" in problem_of(response)["detail"]) == (not keys)


def test_a_service_that_keeps_nothing_says_so(predictor: Any) -> None:
    app = create_app(predictor, Settings(cpus=1, api_keys=DIGESTS))
    with TestClient(app, headers={"x-api-key": KEY}) as client:
        response = client.post("/feedback", json={"request_id": "0" * 32, "label": "cat"})
    assert response.status_code == 404
    assert problem_of(response)["type"] == "urn:kiln:problem:capture-off"


def test_a_store_that_is_away_is_said_and_asked_again(service: Service) -> None:
    class Away(FolderStore):
        def entries(self, prefix: str, after: str = "") -> Any:
            raise StoreError("nobody answers")

    asked, there = service.predict(GOOD), service.store
    answers = StoredAnswers(service.recorder, lambda: Away(there.root))
    app = create_app(bundled_predictor(), Settings(cpus=1, api_keys=DIGESTS), answers=answers)
    with TestClient(app, headers={"x-api-key": KEY}) as client:
        body = {"request_id": asked, "label": "cat"}
        response = client.post("/feedback", json=body)
        assert problem_of(response)["type"] == "urn:kiln:problem:store-unavailable"
        assert (response.status_code, response.headers["retry-after"]) == (503, "5")
        answers._store = there
        assert client.post("/feedback", json=body).status_code == 201


def test_a_flood_of_unknown_ids_looks_into_the_store_once_for_all_that_wait(
    service: Service,
) -> None:
    looks: list[float] = []
    entries = service.store.entries

    def counted(prefix: str, after: str = "") -> Any:
        if prefix.startswith("captures/"):
            looks.append(time.monotonic())
            time.sleep(0.02)
        return entries(prefix, after)

    service.store.entries = counted
    service.say("0" * 32)
    looks.clear()
    with ThreadPoolExecutor(16) as callers:
        found = list(callers.map(lambda n: service.say(f"{n:032x}").status_code, range(1, 49)))
    assert set(found) == {404}
    assert len(looks) < 48  # two hours for each would be 96


VERSION = "ab" * 32
NOW = 1_796_040_000.0


def row(number: int, at: float = NOW) -> Capture:
    return Capture(f"{number:032x}", number % 3, at, VERSION, (0.9, 0.1), 0.5, b"png")


def found(index: AnswerIndex, store: FolderStore, number: int, budget_s: float = 30.0) -> bool:
    return index.find(store, f"{number:032x}", number % 3, time.monotonic(), budget_s)


class Counting(FolderStore):
    """Counts what is asked of it."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.listed: list[str] = []
        self.read_keys: list[str] = []

    def entries(self, prefix: str, after: str = "") -> Any:
        self.listed.append(prefix)
        return super().entries(prefix, after)

    def read(self, key: str) -> bytes:
        self.read_keys.append(key)
        return super().read(key)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Counting:
    monkeypatch.setattr("time.time", lambda: NOW)
    return Counting(tmp_path)


@given(st.lists(st.tuples(st.text(max_size=3), st.integers(0, 5))), st.text(max_size=3))
def test_it_has_what_was_added_and_nothing_else(answers: list[Any], other: str) -> None:
    index = AnswerIndex()
    index.add("captures/a", answers)
    assert all(index.has(*answer) for answer in answers)
    assert index.has(other, 0) == ((other, 0) in answers)


def test_answers_of_the_last_day_are_found_and_each_batch_is_read_once(store: Counting) -> None:
    captures, index = Captures(store), AnswerIndex()
    for hour in range(30):
        captures.write("w", hour, [row(hour)], NOW - 3600 * hour)
    assert found(index, store, 0)
    assert len(store.read_keys) == 1  # the newest hour was enough
    assert found(index, store, HOURS - 1)
    assert not found(index, store, HOURS)
    assert not found(index, store, 99)
    assert len(store.read_keys) == len(set(store.read_keys)) == HOURS
    store.listed.clear()
    assert not found(index, store, 99)
    assert len(store.listed) == 2  # only where something may come


def test_a_damaged_batch_hides_no_other(store: Counting) -> None:
    captures, index = Captures(store), AnswerIndex()
    captures.write("a", 0, [row(1)], NOW)
    store.create("captures/2026-11-30/12/b-000000.jsonl.gz", b"no gzip")
    captures.write("c", 0, [row(2)], NOW)
    assert found(index, store, 1)
    assert found(index, store, 2)


def test_what_takes_too_long_goes_on_the_next_time(store: Counting) -> None:
    captures, index = Captures(store), AnswerIndex()
    for number in range(5):
        captures.write("w", number, [row(number)], NOW)
    read = store.read

    def slow(key: str) -> bytes:
        time.sleep(0.02)
        return read(key)

    store.read = slow  # type: ignore[method-assign]
    looks = 1
    while not found(index, store, 0, budget_s=0.03):
        looks += 1
    assert 2 <= looks <= 5
    assert len(store.read_keys) == len(set(store.read_keys)) == 5


def test_memory_is_bounded_and_the_newest_stay(
    store: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MOST_ROWS", 10)
    captures, index = Captures(store), AnswerIndex()
    for hour in range(8):
        rows = [row(4 * hour + place) for place in range(4)]
        captures.write("w", hour, rows, NOW - 3600 * hour)
    for number in range(32):
        assert found(index, store, number) == (number < 8)
    reads = len(store.read_keys)
    assert not found(index, store, 31)
    assert len(store.read_keys) - reads <= 6  # those without room are not read for ever
