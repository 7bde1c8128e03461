"""Attacks in two packets, split at each of their bytes, and byte by byte: the answers are those to
the whole. Driven through the protocol and the application without a socket."""

import asyncio
import re

import pytest
import uvicorn

from benchmarks.fuzz.request_targets import said_to
from serve.http.app import create_app
from serve.settings import Settings
from tests.serve.abuse.attacks import (
    AMBIGUOUS,
    CLIENTS,
    FORGED,
    HIDDEN_PATH,
    LOGGED,
    METHODS,
    PATHS,
    READ_ONE_WAY,
)
from tests.serve.serving import bundled_predictor

_PREDICTOR = bundled_predictor()
_MOST_BYTES = 2048  # longer attacks are about their length
_HOST = b"Host: x\r\n"


def _of_headers() -> dict[str, bytes]:
    found = {
        f"method {name}": line + b"\r\n".join([*more, b""])
        for name, (line, more) in METHODS.items()
    }
    found |= {f"path {n}": b"GET " + path + b" HTTP/1.1\r\n" for n, path in PATHS.items()}
    found |= {
        f"forged {n}": b"GET /health HTTP/1.1\r\n" + one + b"\r\n" for n, one in FORGED.items()
    }
    found |= {
        f"logged {name}": b"POST "
        + path
        + b" HTTP/1.1\r\n"
        + b"".join(field + b"\r\n" for field in fields)
        + b"Content-Length: %d\r\n" % len(body)
        for name, (path, fields, body) in LOGGED.items()
        if not body
    }
    return {name: head + _HOST + b"\r\n" for name, head in found.items()}


ATTACKS: dict[str, tuple[bytes, list[int] | None]] = {  # bytes, statuses where the tables say them
    **{name: (sent, [400]) for name, sent in AMBIGUOUS.items()},
    **{name: (sent, [status]) for name, (sent, status) in READ_ONE_WAY.items()},
    **{name: (b"".join(parts), [200]) for name, parts in CLIENTS.items()},
    **{name: (sent, None) for name, sent in _of_headers().items() if len(sent) <= _MOST_BYTES},
}


def _places(sent: bytes) -> list[int]:
    """All; of clients' long bodies, which end as short ones do, a few in the middle."""
    every = range(1, len(sent))
    return [at for at in every if at < 600 or at > len(sent) - 40 or at % 101 == 0]


def statuses(said: bytes) -> list[int]:
    return [int(code) for code in re.findall(rb"HTTP/1\.1 (\d{3}) ", said) if code != b"100"]


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_is_answered_alike_wherever_it_is_split(name: str) -> None:
    paths: set[str] = set()
    app = create_app(
        _PREDICTOR,
        Settings(cpus=1, deadline_ms=600_000),
        observer=lambda exchange, method, path: paths.add(path),
    )
    config = uvicorn.Config(app, lifespan="off", log_config=None, ws="none")
    sent, known = ATTACKS[name]

    async def all_splits() -> None:
        expected = statuses(await said_to(config, [sent]))
        assert known in (None, expected)
        for at in _places(sent):
            found = statuses(await said_to(config, [sent[:at], sent[at:]]))
            assert found == expected, sent[:at]
        assert statuses(await said_to(config, [bytes([byte]) for byte in sent])) == expected

    asyncio.run(all_splits())
    assert HIDDEN_PATH not in paths
