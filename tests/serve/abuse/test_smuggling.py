"""No request hides in another: the server, and whoever stands before it, agree where one ends."""

import json
import shutil
import subprocess
from collections.abc import Iterator

import pytest

from tests.serve.abuse.attacks import AMBIGUOUS, CLIENTS, HIDDEN, HIDDEN_PATH, READ_ONE_WAY
from tests.serve.abuse.wire import GOOD, Target, target

CURL = shutil.which("curl")
OFFERS = CURL is not None and "HTTP2" in subprocess.check_output([CURL, "--version"], text=True)


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


@pytest.mark.parametrize("name", READ_ONE_WAY)
def test_what_hides_in_a_packet_of_its_own_is_data_too(server: Target, name: str) -> None:
    sent, status = READ_ONE_WAY[name]
    head, end, rest = sent.partition(b"\r\n\r\n")
    answers, _ = server.answers(head + end, rest)
    assert [answer.status for answer in answers] == [status]


@pytest.mark.parametrize("name", CLIENTS)
def test_an_offer_of_another_protocol_is_ignored(server: Target, name: str) -> None:
    packets = CLIENTS[name]
    again = b"".join(packets)
    followed = [*packets[:-1], packets[-1] + again + again]
    for sent in (packets, [again], [again[:-1], again[-1:]], followed):
        answers, ended = server.answers(*sent)
        assert [answer.status for answer in answers] == [200] * (3 if sent is followed else 1)
        assert not ended, "the connection goes on"


@pytest.mark.skipif(not OFFERS, reason="no curl that knows HTTP/2; its bytes are sent above")
def test_curl_gets_the_answer_that_it_gets_without_an_offer(server: Target) -> None:
    labels = set()
    for offer in ("--http2", "--http1.1"):
        command = [str(CURL), "--verbose", "--noproxy", "*", offer, "--data-binary", "@-"]
        url = f"http://127.0.0.1:{server.port}/predict"
        command += ["--header", "Content-Type: application/json", url]
        ran = subprocess.run(
            command, input=GOOD.decode(), capture_output=True, text=True, check=True
        )
        assert ("> Upgrade: h2c" in ran.stderr) == (offer == "--http2")
        labels.add(json.loads(ran.stdout)["label"])
    assert len(labels) == 1


def test_a_request_that_does_not_hide_is_seen(server: Target) -> None:
    """Or the tests above would say nothing."""
    seen = HIDDEN.replace(HIDDEN_PATH.encode(), b"/seen")
    answers, ended = server.answers(seen + seen)
    assert [answer.status for answer in answers] == [404, 404]
    assert not ended
    assert server.logged(answers[1].headers["x-request-id"])["path"] == "/seen"
