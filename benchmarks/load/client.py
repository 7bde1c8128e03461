"""A cheap HTTP/1.1 load client, run in its own process: a `Job` in JSON in, a `Load` in JSON out.

Closed loop: so many callers, each of which asks again as soon as it is answered. Open loop:
requests come at random at a given rate, from callers at random, whether or not earlier ones are
answered, and wait from the moment they were due, so that a server which stalls is charged for all
that it kept waiting. (Callers in the order in which they connected would be no load that exists: a
server accepts neighbours in one go, so dozens in a row would meet the same process.)
"""

import asyncio
import json
import random
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import uvloop


class Connection(asyncio.Protocol):
    """Sends what it is given; where an answer ends, its content-length says."""

    def __init__(
        self,
        on_answer: "Callable[[Connection, int, bytes], None]",
        on_lost: "Callable[[Connection], None]",
    ) -> None:
        """
        Args:
            on_answer: gets the status and the body.
            on_lost: the connection ended, by whomever.
        """
        self._on_answer, self._on_lost = on_answer, on_lost
        self._received, self._body, self._end = bytearray(), 0, 0
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def send(self, request: bytes) -> None:
        """Asks; one request at a time."""
        self._transport.write(request)

    def close(self) -> None:
        """After this nothing is told but the end."""
        self._transport.close()

    def abort(self) -> None:
        """Closes the connection as a client that vanished would: unsent data is dropped."""
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        self._received += data
        if not self._end:
            end = self._received.find(b"\r\n\r\n")
            if end < 0:
                return
            head = bytes(self._received[:end]).lower()
            length = head.index(b"content-length:") + 15
            self._body = end + 4
            self._end = self._body + int(head[length:].split(b"\r\n", 1)[0])
        if len(self._received) >= self._end:
            status, body = int(self._received[9:12]), bytes(self._received[self._body : self._end])
            self._received.clear()
            self._end = 0
            self._on_answer(self, status, body)

    def connection_lost(self, exc: Exception | None) -> None:
        self._on_lost(self)


@dataclass(frozen=True)
class Job:
    """What to ask, and how."""

    port: int
    path: str
    body: str
    seconds: float
    callers: int  # connections
    rate: float = 0.0  # requests a second; 0: closed loop
    warmup_s: float = 0.5  # before anything counts


@dataclass(frozen=True)
class Load:
    """Latencies in milliseconds, throughput in requests a second."""

    requests: int
    throughput: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float
    statuses: dict[str, int] = field(default_factory=dict)


class _Run:
    def __init__(self, job: Job) -> None:
        self.job = job
        body = job.body.encode()
        head = (
            f"POST {job.path} HTTP/1.1\r\nHost: 127.0.0.1\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        self.request = head.encode() + body
        self._latencies: list[float] = []
        self._statuses: dict[str, int] = {}
        self._idle: list[Connection] = []
        self._due: deque[float] = deque()
        self._since: dict[Connection, float] = {}
        self._start = self._end = 0.0
        self._finished = asyncio.Event()

    async def measure(self) -> Load:
        loop = asyncio.get_running_loop()
        callers = []
        for _ in range(self.job.callers):
            _, caller = await loop.create_connection(
                lambda: Connection(self._answered, self._lost), "127.0.0.1", self.job.port
            )
            callers.append(caller)
        self._start = time.perf_counter() + self.job.warmup_s
        self._end = self._start + self.job.seconds
        if self.job.rate:
            self._idle.extend(callers)
            await loop.run_in_executor(None, self._arrivals, loop)
        else:
            for caller in callers:
                self._ask(caller, time.perf_counter())
        loop.call_later(max(0.0, self._end - time.perf_counter()) + 0.2, self._finished.set)
        await self._finished.wait()
        for caller in callers:
            caller.close()
        await asyncio.sleep(0.01)
        return self._summary()

    def _ask(self, caller: Connection, since: float) -> None:
        self._since[caller] = since
        caller.send(self.request)

    def _answered(self, caller: Connection, status: int, _: bytes) -> None:
        now = time.perf_counter()
        if self._start <= now < self._end:
            self._latencies.append(now - self._since[caller])
            self._statuses[str(status)] = self._statuses.get(str(status), 0) + 1
        if self.job.rate:
            if self._due:
                self._ask(caller, self._due.popleft())
            else:
                self._idle.append(caller)
        elif now < self._end:
            self._ask(caller, now)

    def _lost(self, _: Connection) -> None:
        if time.perf_counter() < self._end:
            self._statuses["lost"] = self._statuses.get("lost", 0) + 1

    def _arrivals(self, loop: asyncio.AbstractEventLoop) -> None:
        """Schedules arrivals in a thread, because the loop's timers are only exact to a
        millisecond."""
        chance = random.Random(0)
        due = time.perf_counter()
        while (due := due + chance.expovariate(self.job.rate)) < self._end:
            time.sleep(max(0.0, due - time.perf_counter()))
            loop.call_soon_threadsafe(self._arrive, due, chance.random())

    def _arrive(self, due: float, chance: float) -> None:
        if self._idle:
            index = int(chance * len(self._idle))
            self._idle[index], self._idle[-1] = self._idle[-1], self._idle[index]
            self._ask(self._idle.pop(), due)
        else:
            self._due.append(due)

    def _summary(self) -> Load:
        latencies = np.array(self._latencies or [float("nan")]) * 1e3
        p50, p95, p99 = (float(p) for p in np.percentile(latencies, (50, 95, 99)))
        return Load(
            requests=len(self._latencies),
            throughput=len(self._latencies) / self.job.seconds,
            p50_ms=p50,
            p95_ms=p95,
            p99_ms=p99,
            max_ms=float(latencies.max()),
            statuses=self._statuses,
        )


def measure(job: Job) -> Load:
    """Runs the job in this process."""

    async def run() -> Load:
        return await _Run(job).measure()

    return uvloop.run(run())


if __name__ == "__main__":
    sys.setswitchinterval(1e-4)  # between the two threads
    json.dump(asdict(measure(Job(**json.loads(sys.stdin.read())))), sys.stdout)
