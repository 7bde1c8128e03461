"""Clients of a soak, in a separate process: a pickled `Plan` in, `TrafficCounts` out each second.

Closed loop: each client sends its next request as soon as it gets a response, in an order
determined by the seed. One additional client stalls: it sends bodies that never arrive.
"""

import asyncio
import json
import pickle  # only from our parent process
import random
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, NamedTuple

import msgspec
import numpy as np
import uvloop

from benchmarks.load.client import Connection
from benchmarks.soak.cases import Case, Expected

_PROBLEM = "urn:kiln:problem:"
Kind = Literal["server error", "wrong status", "wrong answer"]


class Mistake(NamedTuple):
    kind: Kind
    detail: str


class _Wrong(Exception):
    pass


def check(
    case: Case, status: int, body: bytes, classes: Sequence[str], tolerance: float
) -> Mistake | None:
    """None if everything is as expected.

    Args:
        tolerance: allowed difference of a probability.
    """
    if status >= 500:
        return Mistake("server error", f"{case.name}: {status} {body[:300]!r}")
    if status != case.status:
        return Mistake("wrong status", f"{case.name}: {status}, expected {case.status}")
    try:
        answer = msgspec.json.decode(body)
        if status != 200:
            _same(answer["type"], _PROBLEM + case.problem)
        elif case.is_batch:
            _same([item["index"] for item in answer["results"]], [*range(len(case.images))])
            for item, expected in zip(answer["results"], case.images, strict=True):
                _check_item(item, expected, classes, tolerance)
        else:
            _check_image(answer, case.images[0], classes, tolerance)
    except (_Wrong, KeyError, TypeError, ValueError, msgspec.DecodeError) as exc:
        return Mistake("wrong answer", f"{case.name}: {type(exc).__name__} {exc}: {body[:300]!r}")
    return None


def _check_item(
    item: Mapping[str, Any], expected: Expected, classes: Sequence[str], tolerance: float
) -> None:
    if isinstance(expected, int):
        _same(item["error"]["status"], expected)
    else:
        _check_image(item["prediction"], expected, classes, tolerance)


def _check_image(
    found: Mapping[str, Any], expected: Expected, classes: Sequence[str], tolerance: float
) -> None:
    assert not isinstance(expected, int)
    best = max(range(len(expected)), key=expected.__getitem__)
    _same((found["label"], found["index"]), (classes[best], best))
    _same(found["top_k"][0]["label"], classes[best])
    for name, probability in zip(classes, expected, strict=True):
        difference = abs(found["probabilities"][name] - probability)
        if not difference <= tolerance:
            raise _Wrong(f"the probability of {name} is {difference:.2g} away")


def _same(found: object, expected: object) -> None:
    if found != expected:
        raise _Wrong(f"{found}, expected {expected}")


_BATCHES = 0.01  # of all requests: one is as much work as twenty others
_LARGE, _LARGE_BYTES = 0.03, 2**16  # of all requests, those of this size or larger
_EXAMPLES = 10  # failures kept
_PATIENCE_S = 30  # timeout of the last responses
_EVERY_S = 1.0


@dataclass(frozen=True)
class Plan:
    """Requests, their number, and the tolerance of responses."""

    port: int
    cases: Sequence[Case]
    stalled: Case
    classes: Sequence[str]
    callers: int
    requests: int  # 0: as many as possible in the time
    seconds: float
    tolerance: float  # of a probability
    bad: float = 0.3  # of all requests
    seed: int = 0


@dataclass
class TrafficCounts:
    """Counts of requests and outcomes so far."""

    seconds: float = 0.0
    requests: int = 0  # that were answered
    statuses: dict[str, int] = field(default_factory=dict)
    cases: dict[str, int] = field(default_factory=dict)
    mistakes: dict[str, int] = field(
        default_factory=dict
    )  # as check.py names them, and "no answer"
    examples: list[str] = field(default_factory=list)
    latency_ms: dict[str, float] = field(default_factory=dict)


class Traffic:
    """Clients, and checks of their responses."""

    def __init__(self, plan: Plan, say: Callable[[TrafficCounts], None]) -> None:
        self._plan, self._say = plan, say
        self._batches = [case for case in plan.cases if case.is_batch]
        good = [case for case in plan.cases if case.status == 200 and not case.is_batch]
        self._good = [case for case in good if len(case.request) < _LARGE_BYTES]
        self._large = [case for case in good if len(case.request) >= _LARGE_BYTES]
        self._bad = [case for case in plan.cases if case.status != 200]
        # Each of them at least once.
        self._first = [*plan.cases]
        self._chance = random.Random(plan.seed)
        self._waiting: dict[Connection, tuple[Case, float]] = {}
        self._staller: Connection | None = None
        self._connecting = set[asyncio.Task[None]]()
        self._tally = TrafficCounts()
        self._latencies: list[float] = []
        self._sent, self._start = 0, time.perf_counter()
        self._over = asyncio.Event()

    async def run(self) -> TrafficCounts:
        """Runs until the planned requests, or those sent in the planned time, are answered."""
        for _ in range(self._plan.callers):
            self._connect(stalls=False)
        self._connect(stalls=True)
        patience = self._plan.seconds + _PATIENCE_S
        while not self._over.is_set() and time.perf_counter() - self._start < patience:
            try:
                await asyncio.wait_for(self._over.wait(), _EVERY_S)
            except TimeoutError:
                self._say(self.tally())
        for connection, (case, _) in [*self._waiting.items()]:
            if connection is not self._staller:
                self._blame("no answer", f"{case.name}: none within {_PATIENCE_S} s")
            connection.abort()
        self._waiting.clear()
        return self.tally()

    def tally(self) -> TrafficCounts:
        """Counts of requests and outcomes so far."""
        tally = self._tally
        tally.seconds = time.perf_counter() - self._start
        if self._latencies:
            p50, p99 = np.percentile(self._latencies, (50, 99))
            tally.latency_ms = {"p50": p50, "p99": p99, "max": max(self._latencies)}
            tally.latency_ms = {name: float(s) * 1e3 for name, s in tally.latency_ms.items()}
        return tally

    def _connect(self, *, stalls: bool) -> None:
        async def connect() -> None:
            loop = asyncio.get_running_loop()
            _, connection = await loop.create_connection(
                lambda: Connection(self._answered, self._lost), "127.0.0.1", self._plan.port
            )
            if stalls:
                self._staller = connection
            self._ask(connection)

        task = asyncio.create_task(connect())
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    def _ask(self, connection: Connection) -> None:
        if connection is self._staller:
            case = self._plan.stalled
        elif self._is_enough():
            connection.close()
            if not self._waiting.keys() - {self._staller}:
                self._over.set()
            return
        else:
            self._sent += 1
            case = self._next()
        self._waiting[connection] = case, time.perf_counter()
        connection.send(case.request)

    def _is_enough(self) -> bool:
        if self._plan.requests and self._sent >= self._plan.requests:
            return True
        return time.perf_counter() - self._start >= self._plan.seconds

    def _next(self) -> Case:
        if self._first:
            return self._first.pop()
        lot = self._chance.random()
        if lot < self._plan.bad:
            return self._chance.choice(self._bad)
        if lot > 1 - _BATCHES:
            return self._chance.choice(self._batches)
        return self._chance.choice(self._large if lot > 1 - _BATCHES - _LARGE else self._good)

    def _answered(self, connection: Connection, status: int, body: bytes) -> None:
        if (waited := self._waiting.pop(connection, None)) is None:
            self._blame("no answer", f"an answer that nobody waits for: {status} {body[:300]!r}")
            return
        case, since = waited
        if mistake := check(case, status, body, self._plan.classes, self._plan.tolerance):
            self._blame(*mistake)
        tally = self._tally
        tally.statuses[str(status)] = tally.statuses.get(str(status), 0) + 1
        tally.cases[case.name] = tally.cases.get(case.name, 0) + 1
        if connection is not self._staller:
            tally.requests += 1
            self._latencies.append(time.perf_counter() - since)
        if case.ends:
            stalls = connection is self._staller
            connection.close()
            self._connect(stalls=stalls)
        else:
            self._ask(connection)

    def _lost(self, connection: Connection) -> None:
        if waited := self._waiting.pop(connection, None):
            self._blame("no answer", f"{waited[0].name}: the connection ended")
            self._connect(stalls=connection is self._staller)

    def _blame(self, kind: str, detail: str) -> None:
        self._tally.mistakes[kind] = self._tally.mistakes.get(kind, 0) + 1
        if len(self._tally.examples) < _EXAMPLES:
            self._tally.examples.append(detail)


def _print(tally: TrafficCounts) -> None:
    print(json.dumps(asdict(tally)), flush=True)


async def _run(plan: Plan) -> None:
    _print(await Traffic(plan, _print).run())


if __name__ == "__main__":
    plan = pickle.load(sys.stdin.buffer)  # noqa: S301 # from benchmarks/soak/main.py
    uvloop.run(_run(plan))
