"""serve/site/openapi.json: what the types say, and what the service does."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openapi_spec_validator
import pytest
from openapi_schema_validator import OAS31Validator
from starlette.testclient import TestClient

from serve import errors
from serve.http.openapi import document, main, text
from tests.serve.serving import base64_of, client, image_file, pixels

PNG = image_file(pixels())
GOOD = base64_of(PNG)


@pytest.fixture(scope="module")
def service() -> Iterator[TestClient]:
    with client() as running:
        yield running


@pytest.fixture(scope="module")
def served(service: TestClient) -> Any:
    return service.get("/openapi.json").json()


def test_the_file_is_what_the_types_say() -> None:
    found = Path("serve/site/openapi.json").read_text(encoding="utf-8")
    assert found == text(), "run: bazel run //serve:openapi"


def test_help_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BUILD_WORKSPACE_DIRECTORY", str(tmp_path))
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    assert not list(tmp_path.iterdir())


def test_the_document_is_openapi_3_1(served: Any) -> None:
    assert served["openapi"] == "3.1.0"
    openapi_spec_validator.validate(served)


def test_the_document_names_every_route(service: TestClient, served: Any) -> None:
    routes = {route.path for route in service.app.routes}  # type: ignore[attr-defined]
    pages = {"/", "/docs", "/openapi.json"} | {path for path in routes if path.startswith("/site/")}
    assert set(served["paths"]) == routes - pages


def test_every_kind_of_error_is_documented_somewhere() -> None:
    said = json.dumps(document())
    everywhere = {errors.NotFound, errors.MethodNotAllowed}
    for kind in set(errors.ALL) - everywhere:
        assert f"urn:kiln:problem:{kind.kind}:" in said


@pytest.mark.parametrize(
    ("method", "path", "sent"),
    [
        ("get", "/health", {}),
        ("get", "/ready", {}),
        ("get", "/model/info", {}),
        ("get", "/samples", {}),
        ("post", "/predict", {"json": {"image": GOOD, "probabilities": True}}),
        ("post", "/predict", {"json": {"image": GOOD, "top_k": 2}}),
        ("post", "/predict", {"json": {"image": 1}}),
        ("post", "/predict", {"content": b"{", "headers": {"content-type": "application/json"}}),
        ("post", "/predict", {"content": b"GIF", "headers": {"content-type": "image/gif"}}),
        ("post", "/predict", {"content": b"GIF", "headers": {"content-type": "text/plain"}}),
        ("post", "/predict/batch", {"json": {"images": [GOOD, "?", 1]}}),
        ("post", "/predict/batch", {"json": {"images": []}}),
    ],
)
def test_answers_are_as_documented(
    service: TestClient, served: Any, method: str, path: str, sent: Any
) -> None:
    response = service.request(method, path, **sent)
    documented = served["paths"][path][method]["responses"][str(response.status_code)]
    content = documented["content"][response.headers["content-type"]]
    schema = {**content["schema"], "components": served["components"]}
    OAS31Validator(schema).validate(response.json())
    for name in documented["headers"]:
        assert response.headers[name]


def test_examples_are_answered_and_the_pages_show_no_marks(service: TestClient) -> None:
    assert "`" not in json.dumps(document())
    fields = document()["components"]["schemas"]["PredictRequest"]["properties"]
    for example in fields["image"]["examples"]:
        assert service.post("/predict", json={"image": example}).status_code == 200
