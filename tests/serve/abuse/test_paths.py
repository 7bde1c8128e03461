"""A path leads to a route or to nothing: no path is a file's, and none leads away."""

from collections.abc import Iterator

import pytest

from tests.serve.abuse.attacks import PATHS
from tests.serve.abuse.wire import Target, target

SECRETS = (b"root:", b"KILN_", b"def ", b"[core]", b"Content-Security")


@pytest.fixture(scope="module")
def server() -> Iterator[Target]:
    with target() as up:
        yield up
        up.assert_well()


@pytest.mark.parametrize("name", PATHS)
def test_a_crooked_path_leads_nowhere(server: Target, name: str) -> None:
    answers, ended = server.answers(b"GET " + PATHS[name] + b" HTTP/1.1\r\nHost: x\r\n\r\n")
    for answer in answers:
        assert answer.status in (400, 404)
        assert not {"location", "refresh", "set-cookie"} & set(answer.headers)
        if answer.status == 404:
            assert answer.problem["type"] == "urn:kiln:problem:not-found"
        assert not any(secret in answer.body for secret in SECRETS)
    assert [answer.status for answer in answers] == [404] or ended
