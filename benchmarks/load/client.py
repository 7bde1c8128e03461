"""A low-overhead HTTP/1.1 load client, run in a separate process: a `Job` as JSON in, a `Load` as
JSON out.

Closed loop: each of N clients sends its next request as soon as it gets a response. Open loop:
requests arrive at random times at a given rate, from random clients, whether or not earlier ones
are answered, and latency is measured from the scheduled time, so that a stalling server is charged
for all delayed requests. (Clients in the order of connection would be unrealistic: a server accepts
neighbours together, so dozens in a row would reach the same process.)

Requests that start after the warm-up count, at least one per client in a closed loop. Those in
flight at the end are awaited, so that slow ones are included.
"""

import asyncio
import json
import random
import sys
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import uvloop

_PATIENCE_S = 60.0  # timeout of requests in flight at the end


class Connection(asyncio.Protocol):
    """Sends requests; responses are delimited by content-length."""

    def __init__(
        self,
        on_answer: "Callable[[Connection, int, bytes], None]",
        on_lost: "Callable[[Connection], None]",
    ) -> None:
        """Creates a connection.

        Args:
            on_answer: called with status and body.
            on_lost: called when the connection is closed by either side.
        """
        self._on_answer, self._on_lost = on_answer, on_lost
        self._received, self._body, self._end = bytearray(), 0, 0
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def send(self, request: bytes) -> None:
        """Sends a request; the next one may follow after its response."""
        self._transport.write(request)

    def close(self) -> None:
        """Closes the connection; only its end is reported after this."""
        self._transport.close()

    def abort(self) -> None:
        """Aborts the connection like a vanished client: unsent data is dropped."""
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
    port: int
    path: str
    body: str
    seconds: float
    callers: int  # connections
    rate: float = 0.0  # requests per second; 0: closed loop
    warmup_s: float = 0.5  # excluded from the results


@dataclass(frozen=True)
class Load:
    """Measured after the warm-up: latencies in milliseconds."""

    requests: int
    throughput: float  # requests per second
    p50_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float
    statuses: dict[str, int] = field(default_factory=dict)
    answered: int = 0  # all requests, including the warm-up


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
        self._answered_in_all = 0
        self._idle: list[Connection] = []
        self._due: deque[float] = deque()
        self._since: dict[Connection, float] = {}
        self._start = self._end = 0.0
        self._arriving = bool(job.rate)
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
            self._arriving = False
            self._look_for_the_end()
        else:
            for caller in callers:
                self._ask(caller, time.perf_counter())
        left_s = max(0.0, self._end - time.perf_counter())
        with suppress(TimeoutError):
            await asyncio.wait_for(self._finished.wait(), left_s + _PATIENCE_S)
        if self._since:
            self._statuses["unanswered"] = len(self._since)
        self._finished.set()
        for caller in callers:
            caller.close()
        await asyncio.sleep(0.01)
        return self._summary()

    def _ask(self, caller: Connection, since: float) -> None:
        self._since[caller] = since
        caller.send(self.request)

    def _answered(self, caller: Connection, status: int, _: bytes) -> None:
        now, since = time.perf_counter(), self._since.pop(caller)
        self._answered_in_all += 1
        counts = since >= self._start
        if counts:
            self._latencies.append(now - since)
            self._statuses[str(status)] = self._statuses.get(str(status), 0) + 1
        if self.job.rate:
            if self._due:
                self._ask(caller, self._due.popleft())
            else:
                self._idle.append(caller)
        elif now < self._end or not counts:
            self._ask(caller, now)
        self._look_for_the_end()

    def _lost(self, caller: Connection) -> None:
        if not self._finished.is_set():
            self._since.pop(caller, None)
            if caller in self._idle:
                self._idle.remove(caller)
            self._statuses["lost"] = self._statuses.get("lost", 0) + 1
            self._look_for_the_end()

    def _look_for_the_end(self) -> None:
        if not (self._arriving or self._since or self._due):
            self._finished.set()

    def _arrivals(self, loop: asyncio.AbstractEventLoop) -> None:
        """Schedules arrivals in a thread, since the loop's timers are only accurate to a
        millisecond.
        """
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
        elapsed_s = self.job.seconds
        if self._latencies and not self.job.rate:
            # Clients are never idle, so a client's latencies add up to the measured time.
            busy = self.job.callers - self._statuses.get("lost", 0)
            elapsed_s = sum(self._latencies) / max(1, busy)
        return Load(
            requests=len(self._latencies),
            throughput=len(self._latencies) / elapsed_s,
            p50_ms=p50,
            p95_ms=p95,
            p99_ms=p99,
            max_ms=float(latencies.max()),
            statuses=self._statuses,
            answered=self._answered_in_all,
        )


def measure(job: Job) -> Load:
    async def run() -> Load:
        return await _Run(job).measure()

    return uvloop.run(run())


if __name__ == "__main__":
    sys.setswitchinterval(1e-4)  # between the two threads
    json.dump(asdict(measure(Job(**json.loads(sys.stdin.read())))), sys.stdout)
