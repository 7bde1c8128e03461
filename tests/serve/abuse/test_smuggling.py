"""No request hides in another: the server, and whoever stands before it, agree where one ends."""

from collections.abc import Iterator

import pytest

from tests.serve.abuse.attacks import AMBIGUOUS, HIDDEN, HIDDEN_PATH, READ_ONE_WAY
from tests.serve.abuse.wire import Target, target


@pytest.fixture(scope="module")
def server() -> Iterator[Target]:
    with target() as up:
        yield up
        up.assert_well()
        up.stop()
        assert HIDDEN_PATH not in up.log, "what hides is neither answered nor logged"
        up.lines()


@pytest.mark.parametrize("name", AMBIGUOUS)
def test_what_can_be_read_in_two_ways_is_refused_and_ends_the_connection(
    server: Target, name: str
) -> None:
    answers, ended = server.answers(AMBIGUOUS[name])
    assert [answer.status for answer in answers] == [400]
    assert ended


@pytest.mark.parametrize("name", READ_ONE_WAY)
def test_what_can_be_read_in_one_way_has_one_answer(server: Target, name: str) -> None:
    sent, status = READ_ONE_WAY[name]
    answers, _ = server.answers(sent)
    assert [answer.status for answer in answers] == [status]


def test_a_request_that_does_not_hide_is_seen(server: Target) -> None:
    """Or the tests above would say nothing."""
    seen = HIDDEN.replace(HIDDEN_PATH.encode(), b"/seen")
    answers, ended = server.answers(seen + seen)
    assert [answer.status for answer in answers] == [404, 404]
    assert not ended
    assert server.logged(answers[1].headers["x-request-id"])["path"] == "/seen"
