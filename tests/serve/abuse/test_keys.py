"""Who has no key gets no answer, and nobody learns anything about a key."""

import json
from collections.abc import Iterator

import pytest

from serve.http.keys import digest_of, main
from tests.serve.abuse.attacks import KEY, WRONG_KEYS
from tests.serve.abuse.wire import GOOD, Target, target

DIGEST = digest_of(KEY.encode())
MODELS = {"/v2/models/{name}", "/v2/models/{name}/versions/{version}"}
OPEN = {"/", "/docs", "/health", "/ready", "/model/info", "/samples", "/openapi.json"}
OPEN |= {"/v2", "/v2/health/live", "/v2/health/ready"}
OPEN |= {f"{one}{rest}" for one in MODELS for rest in ("", "/config", "/ready")}
JSON = b"Content-Type: application/json"
RIGHT = b"X-API-Key: " + KEY.encode()


@pytest.fixture(scope="module")
def server() -> Iterator[Target]:
    with target(KILN_API_KEYS=f"{digest_of(b'other')},{DIGEST}", KILN_LOG_LEVEL="debug") as up:
        yield up
        up.stop()
        up.lines()
        assert_silent(up.log)


def assert_silent(text: str) -> None:
    assert KEY not in text
    assert DIGEST not in text


@pytest.mark.parametrize("name", WRONG_KEYS)
def test_without_the_right_key_in_its_place_nothing_is_predicted(server: Target, name: str) -> None:
    path, headers = WRONG_KEYS[name]
    answer = server.ask("POST", path, GOOD, JSON, *headers)
    assert answer.status == 401
    assert answer.problem["type"] == "urn:kiln:problem:unauthorized"
    assert answer.headers["www-authenticate"] == 'Bearer realm="kiln"'
    assert_silent((answer.head + answer.body).decode())


@pytest.mark.parametrize(
    "header", [RIGHT, b"Authorization: Bearer " + KEY.encode(), RIGHT.lower()[:9] + RIGHT[9:]]
)
def test_the_right_key_is_let_in(server: Target, header: bytes) -> None:
    answer = server.ask("POST", "/predict", GOOD, JSON, header)
    assert answer.status == 200
    assert_silent((answer.head + answer.body).decode())


def test_a_key_behind_the_body_is_none(server: Target) -> None:
    """A proxy that takes a caller's headers away looks for them in the head alone."""
    head = b"POST /predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n" + JSON
    body = b"%x\r\n" % len(GOOD) + GOOD + b"\r\n0\r\n" + RIGHT + b"\r\n\r\n"
    answers, _ = server.answers(head + b"\r\n\r\n" + body)
    assert [answer.status for answer in answers] == [401]


def test_the_open_routes_are_those_that_say_how_the_service_is(server: Target) -> None:
    document = json.loads(server.ask("GET", "/openapi.json").body)
    model = json.loads(server.ask("GET", "/model/info").body)
    guarded = {path for path in document["paths"] if "post" in document["paths"][path]}
    predicting = {"/predict", "/predict/batch", "/feedback"}
    assert guarded == {*predicting, *(f"{one}/infer" for one in MODELS)}
    for path in OPEN | set(document["paths"]):
        answer = server.ask("GET", path.format(**model))
        assert answer.status == (405 if path in guarded else 200), path
        assert path in guarded | OPEN
        assert_silent((answer.head + answer.body).decode())
    asked = [path.format(**model) for path in guarded]
    assert all(server.ask("POST", path, GOOD, JSON).status == 401 for path in asked)


def test_help_makes_no_key(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    assert "kiln_" not in capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        main(["ten"])
    assert ended.value.code == 2
    main([])
    assert "kiln_" in capsys.readouterr().out
