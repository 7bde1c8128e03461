"""ml/labels/label.py: who may ask, and who may write."""

from pathlib import Path

import pytest
from starlette.testclient import TestClient

from common.captures import Captures
from ml.data.cifar10 import CLASSES
from ml.labels.label import labelling_app
from ml.labels.session import Session
from tests.ml.labels.store import answer, filled

PORT, TOKEN = 8123, "secret"
HOST = f"127.0.0.1:{PORT}"
OURS = {"Origin": f"http://{HOST}", "Content-Type": "application/json"}


@pytest.fixture
def captures(tmp_path: Path) -> Captures:
    return filled(tmp_path, [answer(number) for number in range(5)])


@pytest.fixture
def client(captures: Captures) -> TestClient:
    session = Session(captures, "ada", CLASSES, lambda _: None)
    return TestClient(labelling_app(session, TOKEN, PORT), base_url=f"http://{HOST}")


def due(client: TestClient) -> dict[str, object]:
    shown = client.get(f"/{TOKEN}/state").json()["queue"][0]
    return {"request_id": shown["request_id"], "index": shown["index"], "label": "cat"}


def test_a_label_is_taken_from_the_page(client: TestClient, captures: Captures) -> None:
    response = client.post(f"/{TOKEN}/label", json=due(client), headers=OURS)
    assert response.status_code == 200
    assert response.json()["done"] == 1
    assert len(captures.labels()) == 1


def test_the_page_loads_nothing_and_may_ask_only_here(client: TestClient) -> None:
    response = client.get(f"/{TOKEN}/")
    assert response.status_code == 200
    policy = response.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "connect-src 'self'" in policy
    assert response.headers["cache-control"] == "no-store"
    assert "http" not in response.text.partition("<script")[0].replace("http-equiv", "")


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/wrong/label", OURS, 404),
        (f"/{TOKEN}/label", {**OURS, "Host": "evil.example"}, 421),
        (f"/{TOKEN}/label", {**OURS, "Origin": "http://evil.example"}, 403),
        (f"/{TOKEN}/label", {"Content-Type": "application/json"}, 403),
        (f"/{TOKEN}/label", {**OURS, "Content-Type": "text/plain"}, 415),
    ],
)
def test_nobody_else_may_write(
    client: TestClient, captures: Captures, path: str, headers: dict[str, str], status: int
) -> None:
    assert client.post(path, json=due(client), headers=headers).status_code == status
    assert captures.labels() == []


@pytest.mark.parametrize("action", ["label", "undo", "skip", "more"])
def test_a_get_writes_nothing(client: TestClient, action: str) -> None:
    assert client.get(f"/{TOKEN}/{action}", headers=OURS).status_code == 405


@pytest.mark.parametrize("path", ["/", "/wrong/", "/wrong/state", "/état/state"])
def test_nothing_is_shown_without_the_token(client: TestClient, path: str) -> None:
    assert client.get(path).status_code == 404


@pytest.mark.parametrize("body", ["{", '{"label": 3}', '{"other": 1}', '{"label": "zebra"}'])
def test_a_body_that_is_no_label_is_refused(
    client: TestClient, captures: Captures, body: str
) -> None:
    assert client.post(f"/{TOKEN}/label", content=body, headers=OURS).status_code == 422
    assert captures.labels() == []
