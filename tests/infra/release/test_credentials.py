"""Credentials that end amid a release: renewed by GitHub's tokens, or too short from the start."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from typing import Any

import boto3
import pytest
from botocore import handlers
from botocore.awsrequest import AWSResponse
from botocore.credentials import RefreshableCredentials
from moto.sts.models import STSBackend
from moto.sts.responses import TokenResponse

from common.programs import serving
from infra.release.aws.clients import Aws
from infra.release.commands import watch
from tests.helpers.waiting import wait_until
from tests.infra.release.conftest import cache_clients
from tests.infra.release.killed import GOOD, OTHER
from tests.infra.release.world import READ_EVERY_S, World

_KEY = re.compile(r"Credential=([^/]+)/")
MAKE_CLIENT = Aws._client  # before a fixture caches its clients, and their credentials
LIFE_S = 2.0


class Sessions:
    """STS whose credentials end: calls with a key whose time is over are refused as AWS does."""

    def __init__(self) -> None:
        self.ends: dict[str, float] = {}
        self.tokens: list[str] = []

    def refuse(self, request: Any, **_: Any) -> AWSResponse | None:
        key = _KEY.search(str(request.headers.get("Authorization", "")))
        if key is None or time.time() < self.ends.get(key[1], float("inf")):
            return None
        code = "ExpiredToken"
        body = f"<Error><Code>{code}</Code><Message>has expired</Message></Error>".encode()
        if b"json" in str(request.headers.get("Content-Type", "")).encode():
            body = json.dumps({"__type": f"{code}Exception", "message": "has expired"}).encode()
        answer = {"x-amzn-errortype": f"{code}Exception", "content-type": "application/json"}
        return AWSResponse(request.url, 400, answer, _Raw(body))


class _Raw(BytesIO):
    def stream(self, **_: Any) -> Iterator[bytes]:
        yield self.read()


@pytest.fixture
def sessions(world: World, monkeypatch: pytest.MonkeyPatch) -> Sessions:
    """Of the world, whose function runs on."""
    made = Sessions()
    assume = STSBackend.assume_role_with_web_identity

    answer = TokenResponse.assume_role_with_web_identity

    def take_token(self: Any) -> Any:
        made.tokens.append(self._get_param("WebIdentityToken"))
        return answer(self)

    def assume_role(self: Any, **given: Any) -> Any:
        role = assume(self, **{**given, "duration": LIFE_S})
        made.ends[role.access_key_id] = time.time() + LIFE_S
        return role

    monkeypatch.setattr(STSBackend, "assume_role_with_web_identity", assume_role)
    monkeypatch.setattr(TokenResponse, "assume_role_with_web_identity", take_token)
    hooks = [*handlers.BUILTIN_HANDLERS, ("before-send", made.refuse)]
    monkeypatch.setattr(handlers, "BUILTIN_HANDLERS", hooks)
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    # A quarter of an hour before the end on AWS.
    monkeypatch.setattr(RefreshableCredentials, "_advisory_refresh_timeout", LIFE_S / 2)
    monkeypatch.setattr(RefreshableCredentials, "_mandatory_refresh_timeout", LIFE_S / 4)
    return made


@dataclass
class Github:
    """What gives a job its tokens, each another."""

    url: str = ""
    asked: list[tuple[str, str]] = field(default_factory=list)  # path and who asked


@pytest.fixture
def github() -> Iterator[Github]:
    found = Github()
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            with lock:
                found.asked.append((self.path, str(self.headers["Authorization"])))
                body = json.dumps({"value": f"token-{len(found.asked)}"}).encode()
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with serving(ThreadingHTTPServer(("127.0.0.1", 0), Handler)) as found.url:
        yield found


def test_a_job_of_github_renews_its_credentials_for_as_long_as_the_release_takes(
    world: World, sessions: Sessions, github: Github, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.create(world.push(GOOD))
    world.set("bake_s = 1\nlook_s = 1", "bake_s = 3\nlook_s = 1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "signed-in")
    sessions.ends["signed-in"] = 0.0  # what the step before got is of no use any more
    monkeypatch.setenv("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/kiln-github-production")
    monkeypatch.setenv("ACTIONS_ID_TOKEN_REQUEST_URL", f"{github.url}/token?api-version=2.0")
    monkeypatch.setenv("ACTIONS_ID_TOKEN_REQUEST_TOKEN", "of the job")
    image = world.push(OTHER)
    with world.traffic():
        result = world.deploy(image)
    assert (result.code, world.alias()) == (0, {"2": 1.0}), result.log
    assert len(github.asked) >= 3
    asked = ("/token?api-version=2.0&audience=sts.amazonaws.com", "bearer of the job")
    assert set(github.asked) == {asked}
    assert sessions.tokens == [f"token-{n}" for n in range(1, len(github.asked) + 1)]


def test_credentials_that_end_leave_a_split_that_the_watcher_ends(
    world: World, sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.create(world.push(GOOD))
    world.set("lease_s = 20", "lease_s = 1")
    world.set("bake_s = 1\nlook_s = 1", "bake_s = 3600\nlook_s = 1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "short")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "short")

    def end() -> None:
        wait_until(lambda: len(world.alias()) == 2, every_s=READ_EVERY_S)
        sessions.ends["short"] = 0.0

    image = world.push(OTHER)
    with world.traffic():
        ending = threading.Thread(target=end)
        ending.start()
        result = world.deploy(image)
        ending.join()
        assert (result.code, len(world.alias())) == (2, 2), result.log
        assert "the credentials have expired" in result.data["error"]
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
        world.set("bake_s = 3600\nlook_s = 1", "bake_s = 1\nlook_s = 1")
        monkeypatch.setattr(Aws, "_client", cache_clients(MAKE_CLIENT))
        wait_until(lambda: world.lease().holder() is None, every_s=READ_EVERY_S)  # it ran out
        found = world.run(watch.main, "--golden", str(world.golden))
    assert (found.data["outcome"], world.alias()) == ("promoted", {"2": 1.0}), found.log


@pytest.mark.parametrize(("minutes", "code"), [(5, 1), (60, 0)])
def test_credentials_that_nobody_renews_must_last_for_the_longest_release(
    world: World, monkeypatch: pytest.MonkeyPatch, minutes: int, code: int
) -> None:
    world.create(world.push(GOOD))
    ends = datetime.now(UTC) + timedelta(minutes=minutes)
    monkeypatch.setenv("AWS_CREDENTIAL_EXPIRATION", ends.isoformat())
    result = world.deploy(world.push(OTHER), "--dry-run")
    assert result.code == code, result.log
    if code:
        assert "session: the credentials last for" in result.data["error"]
    assert world.kinds() == []
