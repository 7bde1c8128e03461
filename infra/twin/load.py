"""Load generator of the twin: images at a steady rate, one JSON line per response.

A separate program, so that measurements do not depend on the load of the twin's process.
"""

from __future__ import annotations

import argparse
import base64
import http.client
import itertools
import json
import random
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urlsplit

from common.golden import read_golden_set

_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class TimedResponse:
    """The response to one request as its caller saw it."""

    time_s: float  # end time, seconds since 1970
    status: int  # 0: the connection broke
    latency_ms: float
    model: str  # responding version, if reported


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url", help="URL of the service")
    parser.add_argument("images", type=Path, help="golden set to send images from")
    parser.add_argument(
        "--rate", type=float, default=80.0, help="requests per second (default: 80)"
    )
    parser.add_argument(
        "--callers", type=int, default=6, help="maximum number of requests in flight"
    )
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    # Ctrl-C reaches every program of the terminal; the parent ends this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    bodies = [
        json.dumps({"image": base64.b64encode(image.data).decode()}).encode()
        for image in read_golden_set(options.images).images
    ]
    random.Random(options.seed).shuffle(bodies)
    call_until_told(options.url, bodies, options.rate, options.callers)
    return 0


def call_until_told(url: str, bodies: Sequence[bytes], rate: float, callers: int) -> None:
    """Sends requests until standard input is closed, by or with its parent."""
    ending, lock = threading.Event(), threading.Lock()
    order = turns(rate)

    def call() -> None:
        caller = _Caller(url)
        while not ending.is_set():
            with lock:
                turn, moment = next(order)
            if ending.wait(max(0.0, moment - time.monotonic())):
                break
            line = json.dumps(asdict(caller.ask(bodies[turn % len(bodies)])))
            with lock:
                print(line, flush=True)

    threads = [threading.Thread(target=call) for _ in range(callers)]
    for thread in threads:
        thread.start()
    sys.stdin.read()
    ending.set()
    for thread in threads:
        thread.join()


def turns(rate: float) -> Iterator[tuple[int, float]]:
    """Numbers and times of requests; those missed while all callers waited are skipped."""
    moment = time.monotonic()
    for turn in itertools.count():
        yield turn, moment
        moment = max(moment + 1 / rate, time.monotonic())


class _Caller:
    """A persistent connection, reopened when it breaks."""

    def __init__(self, url: str) -> None:
        self._address = urlsplit(url).netloc
        self._connection = http.client.HTTPConnection(self._address, timeout=_TIMEOUT_S)

    def ask(self, body: bytes) -> TimedResponse:
        begun = time.monotonic()
        status, model = 0, ""
        try:
            headers = {"Content-Type": "application/json"}
            self._connection.request("POST", "/predict", body, headers)
            response = self._connection.getresponse()
            response.read()
            status, model = response.status, response.headers.get("x-model-version", "")
        except (OSError, http.client.HTTPException):
            self._connection.close()
        return TimedResponse(time.time(), status, (time.monotonic() - begun) * 1e3, model)


if __name__ == "__main__":
    sys.exit(main())
