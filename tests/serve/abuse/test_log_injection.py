"""Whatever callers send, a line of the log is one object, written by the service."""

from collections.abc import Iterator

import pytest

from tests.serve.abuse.attacks import LOGGED
from tests.serve.abuse.wire import Target, target

MESSAGES = {"request answered", "serving, API at /docs"}
LONGEST = 256  # characters of a path


@pytest.fixture(scope="module")
def server() -> Iterator[Target]:
    with target(KILN_LOG_LEVEL="debug") as up:
        yield up
        up.stop()
        assert up.log.isascii()
        for line in up.lines():
            assert line["level"] != "error"
            assert line["message"] != "forged"


@pytest.mark.parametrize("name", LOGGED)
def test_a_request_is_one_line_of_the_log(server: Target, name: str) -> None:
    path, headers, body = LOGGED[name]
    line = (b"POST " if body else b"GET ") + path + b" HTTP/1.1\r\n"
    answer = server.raw(line, body, *headers)
    assert answer.status < 500
    record = server.logged(answer.headers["x-request-id"])
    assert record["status"] == answer.status
    assert record["message"] == "request answered"
    assert len(record["path"]) <= LONGEST
    text = server.log
    assert text.isascii()
    assert not any(ord(one) < 32 for one in text.replace("\n", ""))


def test_only_our_own_words_are_messages(server: Target) -> None:
    server.assert_well()
    ours = {line["message"] for line in server.lines() if line["logger"].startswith("serve")}
    assert ours <= MESSAGES
