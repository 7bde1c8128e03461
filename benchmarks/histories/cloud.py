"""S3 and Lambda as seen by release managers, in virtual time, with faults.

Managers are threads of which one runs at a time: each call and each wait yields to whichever is due
first, so a seed determines everything and nothing really waits. Calls are retried like boto3's,
three attempts in all, and may be lost before or after they take effect.
"""

from __future__ import annotations

import hashlib
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from io import BytesIO
from types import SimpleNamespace
from typing import Any

from botocore.exceptions import ClientError, EndpointConnectionError, ReadTimeoutError

from common.aws import S3Store
from infra.release.aws.clients import explained
from infra.release.evidence.collector import Buckets, Collected
from infra.release.verdict.evidence import Arm

_ENDPOINT = "https://aws.invalid"
_ATTEMPTS = 3  # boto3's standard mode, as in infra/release/aws/clients.py


class Killed(BaseException):
    """The process is dead: it runs no code and makes no calls."""


@dataclass
class Faults:
    """Rates of faults, and periods without any connection."""

    busy: float = 0.0  # 503 before any effect
    lost: float = 0.0  # done, but the response is lost
    killed: float = 0.0  # the process dies before or after a call
    partitions: dict[str, tuple[float, float]] = field(default_factory=dict)  # from, until


@dataclass
class World:
    """Stored state and time."""

    random: random.Random
    faults: Faults
    now: float = 1_800_000_000.0
    objects: dict[str, tuple[bytes, str]] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)  # version number to image
    latest: str = ""  # image of $LATEST
    live: tuple[str, dict[str, float]] = ("1", {})
    revision: int = 1
    # Of the alias: target, and number of records at that time.
    moves: list[tuple[dict[str, float], int]] = field(default_factory=list)

    def weights(self) -> dict[str, float]:
        version, others = self.live
        return {version: round(1 - sum(others.values()), 6), **others}


class Turns:
    """Runs actors in the order in which they are due."""

    def __init__(self, world: World) -> None:
        self.world = world
        self._actors: list[Actor] = []
        self._mine = threading.Semaphore(0)

    def start(self, actor: Actor, at_s: float) -> None:
        actor.due = self.world.now + at_s
        self._actors.append(actor)

    def run(self) -> None:
        """Runs every actor to its end, always the one that is due first."""
        while left := [actor for actor in self._actors if not actor.has_ended]:
            actor = min(left, key=lambda actor: actor.due)
            self.world.now = max(self.world.now, actor.due)
            actor.take_turn()
            self._mine.acquire()
        self._actors.clear()

    def give(self) -> None:
        self._mine.release()


class Actor:
    """A manager's process: its work, clock and clients."""

    def __init__(
        self, turns: Turns, name: str, offset_s: float, work: Callable[[Actor], object]
    ) -> None:
        self.turns, self.name, self._offset_s, self._work = turns, name, offset_s, work
        self.due, self.has_ended, self.result = 0.0, False, ""
        self.mistake: Exception | None = None  # an unexpected exception of the manager
        self._turn = threading.Semaphore(0)
        self._thread: threading.Thread | None = None
        self._is_dead = False
        self.aws: Any = _aws(self)

    # ---- As a clock ----

    def now(self) -> float:
        return self.turns.world.now + self._offset_s

    def sleep(self, seconds: float) -> None:
        self._check_alive()
        self.due = self.turns.world.now + seconds
        self.turns.give()
        self._turn.acquire()

    # ---- As a process ----

    def take_turn(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, daemon=True)
            self._thread.start()
        self._turn.release()

    def _run(self) -> None:
        self._turn.acquire()
        try:
            self.result = str(self._work(self))
        except Killed:
            self.result = "killed"
        except Exception as exc:
            self.result, self.mistake = repr(exc), exc
        finally:
            self.has_ended = True
            self.turns.give()

    def _check_alive(self) -> None:
        if self._is_dead:
            raise Killed

    def _die_perhaps(self) -> None:
        world = self.turns.world
        self._is_dead = self._is_dead or world.random.random() < world.faults.killed
        self._check_alive()

    # ---- As a client ----

    def call(self, name: str, do: Callable[[], Any], attempts: int = _ATTEMPTS) -> Any:
        """Makes a call with boto3's retries."""
        world = self.turns.world
        error: Exception | None = None
        for _ in range(attempts):
            self.sleep(world.random.choice((0.01, 0.03, 0.2, 1.0)))
            self._die_perhaps()
            begins, ends = world.faults.partitions.get(self.name, (0.0, 0.0))
            if begins <= world.now < ends:
                error = EndpointConnectionError(endpoint_url=_ENDPOINT)
                self.sleep(5)
            elif world.random.random() < world.faults.busy:
                error = refusal("ServiceUnavailable", name, 503)
            else:
                answer = do()
                self._die_perhaps()
                if world.random.random() >= world.faults.lost:
                    return answer
                error = ReadTimeoutError(endpoint_url=_ENDPOINT)
                self.sleep(5)
        assert error
        raise error


def refusal(code: str, name: str, status: int = 400) -> ClientError:
    """An AWS error response."""
    facts = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return ClientError(facts, name)


def _aws(actor: Actor) -> Any:
    s3, functions = _S3(actor), _Lambda(actor)
    return SimpleNamespace(
        region="eu-central-1",
        functions=functions,
        calls=functions,
        s3=s3,
        bucket=lambda name, prefix: S3Store(s3, name, prefix, explained),
    )


class _Pages:
    def __init__(self, pages: Callable[..., Sequence[Any]]) -> None:
        self._pages = pages

    def paginate(self, **options: Any) -> Iterator[Any]:
        yield from self._pages(**options)


class _S3:
    """A strongly consistent bucket with conditional writes."""

    def __init__(self, actor: Actor) -> None:
        self._actor, self._objects = actor, actor.turns.world.objects

    def get_object(self, Key: str, **_: Any) -> Any:
        def do() -> Any:
            if Key not in self._objects:
                raise refusal("NoSuchKey", "GetObject", 404)
            data, tag = self._objects[Key]
            return {"Body": BytesIO(data), "ETag": tag}

        # Records are read often and never change: only writes yield.
        return self._actor.call("GetObject", do) if "records/" not in Key else do()

    def put_object(
        self, Key: str, Body: bytes, IfMatch: str = "", IfNoneMatch: str = "", **_: Any
    ) -> Any:
        def do() -> Any:
            there = self._objects.get(Key)
            if (IfNoneMatch and there) or (IfMatch and (not there or there[1] != IfMatch)):
                raise refusal("PreconditionFailed", "PutObject", 412)
            self._objects[Key] = Body, hashlib.md5(Body, usedforsecurity=False).hexdigest()
            return {"ETag": self._objects[Key][1]}

        return self._actor.call("PutObject", do)

    def get_paginator(self, _: str) -> _Pages:
        def pages(Prefix: str, StartAfter: str = "", **_: Any) -> Sequence[Any]:
            when = datetime.fromtimestamp(0, UTC)
            return [
                {
                    "Contents": [
                        {"Key": key, "Size": 0, "LastModified": when}
                        for key in sorted(self._objects)
                        if key.startswith(Prefix) and key > StartAfter
                    ]
                }
            ]

        return _Pages(lambda **options: self._actor.call("ListObjects", lambda: pages(**options)))


class _Lambda:
    """The Lambda API of the simulated function."""

    def __init__(self, actor: Actor) -> None:
        self._actor, self._world = actor, actor.turns.world

    def get_function(self, Qualifier: str = "", **_: Any) -> Any:
        def do() -> Any:
            image = self._world.versions.get(Qualifier) if Qualifier else self._world.latest
            if image is None:
                raise refusal("ResourceNotFoundException", "GetFunction", 404)
            return {"Code": {"ImageUri": f"kiln@{image}"}, "Configuration": {}}

        return self._actor.call("GetFunction", do)

    def get_function_configuration(self, **_: Any) -> Any:
        return self._actor.call("GetFunctionConfiguration", dict)

    def publish_version(self, **_: Any) -> Any:
        def do() -> Any:
            versions = self._world.versions
            newest = max(versions, key=int)
            if versions[newest] != self._world.latest:
                newest = str(int(newest) + 1)
                versions[newest] = self._world.latest
            return {"Version": newest}

        return self._actor.call("PublishVersion", do)

    def get_paginator(self, _: str) -> _Pages:
        def do() -> Any:
            return [{"Versions": [{"Version": version} for version in self._world.versions]}]

        return _Pages(lambda **_: self._actor.call("ListVersionsByFunction", do))

    def get_alias(self, **_: Any) -> Any:
        def do() -> Any:
            version, others = self._world.live
            return {
                "FunctionVersion": version,
                "RoutingConfig": {"AdditionalVersionWeights": dict(others)},
                "RevisionId": str(self._world.revision),
            }

        return self._actor.call("GetAlias", do)

    def update_alias(
        self, FunctionVersion: str, RoutingConfig: Any, RevisionId: str = "", **_: Any
    ) -> Any:
        def do() -> Any:
            if RevisionId and RevisionId != str(self._world.revision):
                raise refusal("PreconditionFailedException", "UpdateAlias", 412)
            self._world.live = FunctionVersion, dict(RoutingConfig["AdditionalVersionWeights"])
            self._world.revision += 1
            records = sum("records/" in key for key in self._world.objects)
            self._world.moves.append((self._world.weights(), records))
            return {}

        return self._actor.call("UpdateAlias", do)

    def invoke(self, Qualifier: str, **_: Any) -> Any:
        def do() -> Any:
            version = Qualifier
            if version == "live":
                weights = self._world.weights()
                (version,) = self._world.random.choices([*weights], [*weights.values()])
            image = self._world.versions[version]
            body = f'{{\\"version\\": \\"{image[7:]}\\", \\"classes\\": [\\"cat\\"]}}'
            payload = f'{{"statusCode": 200, "body": "{body}"}}'.encode()
            return {"Payload": BytesIO(payload), "ExecutedVersion": version}

        return self._actor.call("Invoke", do, attempts=1)


class Evidence:
    """Replaces the collector: requests to a harmful image fail."""

    buckets = Buckets((0.1,), (0.5,))

    def __init__(self, actor: Actor, is_harmful: Callable[[str], bool]) -> None:
        self._actor, self._is_harmful = actor, is_harmful

    def lost(self, *_: Any) -> dict[str, int]:
        with explained("CloudWatch metrics"):
            found: dict[str, int] = self._actor.call("GetMetricData", dict)
        return found

    def collect(self, stable: str, candidate: str, *_: Any, **__: Any) -> Collected:
        versions = self._actor.turns.world.versions
        failed = 50 * self._is_harmful(versions[candidate])
        seen = Collected(Arm(100), Arm(100, failed), {})
        with explained("CloudWatch Logs"):
            collected: Collected = self._actor.call("FilterLogEvents", lambda: seen)
        return collected
