"""The same through Lambda, where there is no HTTP of ours: events come as JSON."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from serve.http.keys import digest_of
from tests.serve.abuse.attacks import KEY, PATHS, WRONG_KEYS
from tests.serve.abuse.wire import GOOD
from tests.serve.aws_lambda.events import http_api, status_and_json
from tests.serve.aws_lambda.local_function import LocalFunction, local_function

DIGEST = digest_of(KEY.encode())


@pytest.fixture(scope="module")
def function(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalFunction]:
    """Its log holds neither key nor digest in the end, and nothing but whole JSON objects."""
    environment = {"KILN_API_KEYS": DIGEST, "AWS_LAMBDA_LOG_FORMAT": "JSON"}
    with local_function(tmp_path_factory.mktemp("function"), environment) as up:
        yield up
        assert answer(up, "POST", "/predict", {"x-api-key": KEY}, GOOD)["statusCode"] == 200
    log = up.log.read_text(encoding="ascii")
    assert KEY not in log
    assert DIGEST not in log
    assert all(isinstance(json.loads(line), dict) for line in log.splitlines())


def answer(
    function: LocalFunction,
    method: str,
    path: str,
    headers: dict[str, str],
    content: bytes | None = None,
) -> Any:
    path, _, query = path.partition("?")
    event = http_api(method, path, content, {"content-type": "application/json", **headers})
    return function.api.invoke({**event, "rawQueryString": query})


def parsed(lines: list[bytes]) -> dict[str, str]:
    """As API Gateway passes them on: names in small letters, values of one name joined."""
    found: dict[str, str] = {}
    for line in lines:
        name, _, value = line.decode("latin-1").partition(":")
        held = found.get(name.lower())
        found[name.lower()] = f"{held},{value.strip()}" if held is not None else value.strip()
    return found


@pytest.mark.parametrize("name", WRONG_KEYS)
def test_without_the_right_key_nothing_is_predicted(function: LocalFunction, name: str) -> None:
    path, headers = WRONG_KEYS[name]
    found = answer(function, "POST", path, parsed(headers), GOOD)
    assert found["statusCode"] == 401
    assert KEY not in found["body"]


def test_who_invokes_the_function_itself_needs_no_key(function: LocalFunction) -> None:
    """Release manager and warm-up; a caller cannot name the domain that its front door writes."""
    event = http_api("POST", "/predict", GOOD, {"content-type": "application/json"})
    headers = {**event["headers"], "host": "release-manager", "x-forwarded-host": "release-manager"}
    assert function.api.invoke({**event, "headers": headers})["statusCode"] == 401
    context = {**event["requestContext"], "domainName": "release-manager"}
    assert function.api.invoke({**event, "requestContext": context})["statusCode"] == 200


@pytest.mark.parametrize("name", PATHS)
def test_a_crooked_path_leads_nowhere(function: LocalFunction, name: str) -> None:
    status, problem = status_and_json(answer(function, "GET", PATHS[name].decode("latin-1"), {}))
    assert 400 <= status < 500
    assert problem["type"].startswith("urn:kiln:problem:")
    assert "root:" not in problem["detail"]


@pytest.mark.parametrize("value", ["a\r\nset-cookie: b=1", "\x00", "\x1b[31m", "\u2028"])
def test_nothing_of_a_header_comes_back(function: LocalFunction, value: str) -> None:
    names = ("traceparent", "x-request-id", "x-forwarded-host")  # `host` is the front door's
    found = answer(function, "GET", "/health", dict.fromkeys(names, value))
    assert found["statusCode"] == 200
    assert value not in json.dumps(found, ensure_ascii=False)
    assert "set-cookie" not in found["headers"]
    assert found["headers"]["x-content-type-options"] == "nosniff"
