"""Too much of anything is refused or cut off, and the process is afterwards as it was."""

import socket
from collections.abc import Iterator

import pytest

from tests.helpers.waiting import wait_until
from tests.serve.abuse.attacks import BODIES, ENDLESS, GROWTH_MB
from tests.serve.abuse.wire import Target, target

TIMES = 4000  # 40 MB: more than the system holds of what the server has not read


@pytest.fixture(scope="module")
def server() -> Iterator[Target]:
    with target() as up:
        up.assert_well()
        before = up.resident_mb
        yield up
        up.assert_well()
        assert up.resident_mb - before < GROWTH_MB


@pytest.mark.parametrize("name", BODIES)
def test_a_body_with_too_much_is_refused_as_documented(server: Target, name: str) -> None:
    path, kind, body, status = BODIES[name]
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n".encode()
    [answer], _ = server.answers(head + b"Content-Type: " + kind + b"\r\n\r\n" + body)
    assert answer.status == status
    if status != 200:
        assert answer.problem["type"].startswith("urn:kiln:problem:")
        assert len(answer.body) < 64 * 1024 or len(body) >= 2**20
    server.assert_well()


@pytest.mark.parametrize("name", ENDLESS)
def test_what_does_not_end_is_cut_off(server: Target, name: str) -> None:
    beginning, again = ENDLESS[name]
    before = server.resident_mb
    with server.connect() as caller:
        caller.sendall(beginning + again)
        assert is_cut_off(caller, again)
    assert server.resident_mb - before < 8
    server.assert_well()


def is_cut_off(caller: socket.socket, again: bytes) -> bool:
    try:
        for _ in range(TIMES):
            caller.sendall(again)
    except OSError:  # reset, or ended
        return True
    return False


@pytest.mark.parametrize("count", [10, 500])
def test_many_headers_that_end_are_nothing_special(server: Target, count: int) -> None:
    headers = [b"X-%d: a" % number for number in range(count)]
    assert server.ask("GET", "/health", b"", *headers).status == 200


def test_many_connections_with_half_a_head_end(server: Target) -> None:
    callers = [server.connect() for _ in range(50)]
    for caller in callers:
        caller.sendall(b"GET /health HTTP/1.1\r\nX: " + b"a" * 30_000)
    server.assert_well()
    wait_until(lambda: all(caller.recv(1) == b"" for caller in callers), "the end of them all")
    for caller in callers:
        caller.close()
