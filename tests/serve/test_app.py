"""serve/http/app.py: what lies around the routes: identity, errors, keys, origins as AWS's HTTP API
allows them, and prefixes."""

import hashlib
import json
import logging
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.middleware.cors import CORSMiddleware
from starlette.testclient import TestClient

from serve.exchange import Exchange
from serve.http.app import create_app
from serve.http.keys import new_key
from serve.inference.predictor import Predictor
from serve.settings import Settings
from tests.serve.serving import (
    base64_of,
    bundled_predictor,
    client,
    image_file,
    pixels,
    problem_of,
)

BODY = {"image": base64_of(image_file(pixels()))}
TRACE = "0af7651916cd43dd8448eb211c80319c"


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return bundled_predictor()


@pytest.fixture(scope="module")
def service(predictor: Predictor) -> Iterator[TestClient]:
    with client(predictor) as running:
        yield running


class Broken:
    """A predictor whose session fails or forgets."""

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor
        self.metadata, self.version = predictor.metadata, predictor.version

    def __call__(self, images: Any) -> Any:
        raise RuntimeError("secret details")

    def check(self) -> None:
        Predictor.check(self)  # type: ignore[arg-type]


@pytest.mark.parametrize("path", ["/health", "/ready", "/model/info", "/predict", "/nowhere"])
def test_every_response_names_its_request_and_the_model(
    service: TestClient, predictor: Predictor, path: str
) -> None:
    first, second = service.get(path), service.get(path)
    for response in (first, second):
        assert re.fullmatch("[0-9a-f]{32}", response.headers["x-request-id"])
        assert response.headers["x-model-version"] == predictor.version
        assert response.headers["x-content-type-options"] == "nosniff"
    assert first.headers["x-request-id"] != second.headers["x-request-id"]


@pytest.mark.parametrize(
    ("traceparent", "is_taken"),
    [
        (f"00-{TRACE}-b7ad6b7169203331-01", True),
        (f"cc-{TRACE}-b7ad6b7169203331-01-later", True),
        (f"00-{TRACE}-b7ad6b7169203331-01-later", False),
        (f"ff-{TRACE}-b7ad6b7169203331-01", False),
        (f"00-{'0' * 32}-b7ad6b7169203331-01", False),
        (f"00-{TRACE}-{'0' * 16}-01", False),
        (f"00-{TRACE.upper()}-b7ad6b7169203331-01", False),
        ("nonsense", False),
    ],
)
def test_the_request_id_is_the_callers_trace_id(
    service: TestClient, traceparent: str, is_taken: bool
) -> None:
    response = service.post("/predict", json=BODY, headers={"traceparent": traceparent})
    assert (response.headers["x-request-id"] == TRACE) == is_taken
    assert response.json()["request_id"] == response.headers["x-request-id"]


def test_a_path_that_is_not_there_is_a_problem(service: TestClient) -> None:
    assert problem_of(service.get("/nowhere"))["type"] == "urn:kiln:problem:not-found"
    assert problem_of(service.get("/health/"))["status"] == 404


def test_a_method_that_a_path_does_not_take_is_a_problem(service: TestClient) -> None:
    response = service.get("/predict")
    assert problem_of(response)["status"] == 405
    assert response.headers["allow"] == "POST"


def test_a_mistake_of_ours_is_logged_with_the_request_id_and_tells_nothing(
    predictor: Predictor, caplog: pytest.LogCaptureFixture
) -> None:
    with client(Broken(predictor)) as service:  # type: ignore[arg-type]
        response = service.post("/predict", json=BODY)
    problem = problem_of(response)
    assert problem["status"] == 500
    assert "secret" not in response.text
    records = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert [record.request_id for record in records] == [problem["request_id"]]  # type: ignore[attr-defined]


def test_a_session_that_answers_otherwise_than_recorded_is_not_ready(predictor: Predictor) -> None:
    broken = Broken(predictor)
    parity = replace(predictor.metadata.parity, images=bytes(len(predictor.metadata.parity.images)))
    broken.metadata = replace(predictor.metadata, parity=parity)
    broken.__class__ = type("Forgetful", (Broken,), {"__call__": lambda _, x: predictor(x)})
    with client(broken) as service:  # type: ignore[arg-type]
        response = service.get("/ready")
        assert service.get("/health").status_code == 200
    assert problem_of(response)["type"] == "urn:kiln:problem:not-ready"
    assert response.headers["retry-after"]


def test_model_info_tells_what_the_artifact_says(service: TestClient, predictor: Predictor) -> None:
    info = service.get("/model/info").json()
    assert info["version"] == predictor.version
    assert info["classes"] == list(predictor.metadata.classes)
    assert info["test_metrics"]["accuracy"] == predictor.metadata.test_metrics.accuracy
    assert info["limits"]["batch_images"] == 100


def test_keys_are_asked_for_where_they_are_configured(predictor: Predictor) -> None:
    (key, digest), (other, _) = new_key(), new_key()
    assert hashlib.sha256(key.encode()).hexdigest() == digest
    with client(predictor, api_keys=(digest, "0" * 64)) as service:
        for headers in ({}, {"x-api-key": other}, {"authorization": f"Basic {key}"}):
            refused = service.post("/predict", json=BODY, headers=headers)
            assert problem_of(refused)["status"] == 401
            assert refused.headers["www-authenticate"].startswith("Bearer")
        for headers in ({"x-api-key": key}, {"authorization": f"Bearer {key}"}):
            assert service.post("/predict", json=BODY, headers=headers).status_code == 200
            batch = service.post("/predict/batch", json={"images": ["x"]}, headers=headers)
            assert batch.status_code == 200
        assert service.post("/predict/batch", json={"images": ["x"]}).status_code == 401
        assert service.get("/health").status_code == 200
        assert service.get("/").status_code == 200


def test_browsers_of_other_origins_are_let_in_where_configured(predictor: Predictor) -> None:
    ours, theirs = "https://app.example.org", "https://evil.example.org"
    with client(predictor, cors_origins=(ours,)) as service:
        answer = service.post("/predict", json=BODY, headers={"origin": ours})
        assert answer.headers["access-control-allow-origin"] == ours
        error = service.post("/predict", content=b"{", headers={"origin": ours})
        assert error.headers["access-control-allow-origin"] == ours
        other = service.post("/predict", json=BODY, headers={"origin": theirs})
        assert "access-control-allow-origin" not in other.headers
        asked = service.options(
            "/predict",
            headers={
                "origin": ours,
                "access-control-request-method": "POST",
                "access-control-request-headers": "content-type,x-api-key",
            },
        )
        assert asked.status_code == 200


def test_without_configured_origins_no_response_speaks_of_them(service: TestClient) -> None:
    headers = {"origin": "https://app.example.org"}
    answer = service.post("/predict", json=BODY, headers=headers)
    assert not [name for name in answer.headers if name.startswith("access-control")]


def test_a_prefix_that_the_proxy_leaves_on_is_taken_off(predictor: Predictor) -> None:
    with client(predictor, root_path="/prod") as service:
        assert service.post("/prod/predict", json=BODY).status_code == 200
        assert service.get("/prod/docs").status_code == 200
        assert service.post("/predict", json=BODY).status_code == 200


def test_a_full_service_answers_503_and_when_to_come_again(predictor: Predictor) -> None:
    with client(predictor, deadline_ms=-1) as service:
        response = service.post("/predict", json=BODY)
    assert problem_of(response)["type"] == "urn:kiln:problem:overloaded"
    assert int(response.headers["retry-after"]) >= 1


def test_the_observer_sees_every_request_and_what_became_of_it(predictor: Predictor) -> None:
    seen: list[tuple[Exchange, str, str]] = []
    app = create_app(predictor, Settings(cpus=1), observer=lambda *told: seen.append(told))
    with TestClient(app) as service:
        answer = service.post("/predict", json=BODY)
        service.post("/predict", content=b"{")
        service.get("/health")
        service.get("/site/style.css")
        service.get("/predict")
        service.get("/nowhere")
    (good, *_), (bad, *_), (health, *where), *_ = seen
    assert good.request_id == answer.json()["request_id"]
    assert good.status == 200
    assert good.probabilities is not None
    assert good.images is not None
    assert good.images.shape == (1, 32, 32, 3)
    assert min(good.decode_s, good.infer_s, good.batch) > 0
    assert (bad.status, bad.error) == (415, "unsupported-media-type") or bad.status == 400
    assert (health.status, where) == (200, ["GET", "/health"])
    assert [(exchange.route, exchange.status) for exchange, *_ in seen[2:]] == [
        ("/health", 200),
        ("/site/{file}", 200),
        ("/predict", 405),
        ("", 404),
    ]


def test_a_page_that_the_browser_has_is_not_sent_again(service: TestClient) -> None:
    page = service.get("/")
    again = service.get("/", headers={"if-none-match": page.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


def test_pages_may_load_nothing_from_elsewhere(service: TestClient) -> None:
    for path in ("/", "/docs"):
        page = service.get(path)
        policy = page.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
        assert "unsafe" not in policy
        links = re.findall(r'(?:src|href)="([^"]+)"', page.text)
        assert links
        assert not [link for link in links if link.startswith(("/", "http:", "https:"))]


@given(
    path=st.sampled_from(["/predict", "/predict/batch"]),
    body=st.one_of(
        st.binary(max_size=200),
        st.recursive(
            st.none() | st.booleans() | st.floats() | st.text(max_size=5),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(st.sampled_from(["image", "images", "top_k", "a"]), inner)
            ),
            max_leaves=6,
        ).map(lambda value: repr(value).replace("'", '"').encode()),
        st.binary(max_size=60).map(lambda data: b'{"image": "' + base64_of(data).encode() + b'"}'),
        st.sampled_from([b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF89a", b"BM", b"RIFF1234WEBP"]),
    ),
    content_type=st.sampled_from(
        [
            "application/json",
            "image/png",
            "multipart/form-data; boundary=b",
            "text/x",
            "",
            ";",
            "a/b;c",
        ]
    ),
    query=st.sampled_from(["", "?top_k=1", "?top_k=%ff", "?probabilities=", "?top_k=²"]),
)
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_bytes_make_the_service_fail(
    service: TestClient, path: str, body: bytes, content_type: str, query: str
) -> None:
    headers = {"content-type": content_type} if content_type else {}
    response = service.post(path + query, content=body, headers=headers)
    if response.status_code != 200:
        assert problem_of(response)["status"] in (400, 413, 415, 422)


def test_predictions_are_routed_without_a_search_and_named_as_if_there_had_been_one(
    predictor: Predictor,
) -> None:
    seen: list[tuple[str, int]] = []

    def observe(exchange: Exchange, method: str, path: str) -> None:
        seen.append((exchange.route, exchange.status))

    app = create_app(predictor, Settings(cpus=1), observer=observe)
    app.router.routes.clear()
    caller = TestClient(app)
    assert caller.post("/predict", json=BODY).json()["label"]
    assert caller.post("/predict/batch", json={"images": [BODY["image"]]}).json()["succeeded"] == 1
    assert caller.get("/predict").status_code == 404  # the others are Starlette's
    assert seen == [("/predict", 200), ("/predict/batch", 200), ("", 404)]


SERVICE = Path("infra/terraform/roots/service")
API = (SERVICE / "api.tf").read_text(encoding="utf-8")


def gateways() -> dict[str, Any]:
    """The API's `cors_configuration`, but for the origins, which each deployment decides."""
    _, _, block = API.partition('dynamic "cors_configuration"')
    _, _, content = block.partition("content {")
    pairs = re.findall(r"^ +(\w+) += (\[.*\]|\d+)", content.partition("}")[0], re.MULTILINE)
    return {name: json.loads(value) for name, value in pairs}


def applications() -> dict[str, Any]:
    """What the application's middleware was made with, but for the origins."""
    settings = Settings(cpus=1, cors_origins=("https://app.example.org",))
    app = create_app(bundled_predictor(), settings)
    layers: dict[object, dict[str, Any]] = {one.cls: one.kwargs for one in app.user_middleware}
    said = layers[CORSMiddleware]
    return {name: value for name, value in said.items() if name != "allow_origins"}


def test_the_api_and_the_application_allow_the_same() -> None:
    assert gateways() == applications()


@pytest.mark.parametrize("name", ["allow_methods", "allow_headers", "expose_headers"])
def test_the_lists_name_something(name: str) -> None:
    assert gateways()[name]


def test_the_function_url_says_nothing_beside_the_application() -> None:
    assert "cors" not in (SERVICE / "function_url.tf").read_text(encoding="utf-8").lower()
