"""Load generator of the twin: images at a steady rate, one JSON line for each answer.

A program of its own, so that it measures what callers see and not how busy the twin's process is.
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
    """The response to one request, as its caller saw it."""

    time_s: float  # since 1970, of its end
    status: int  # 0: the connection broke
    latency_ms: float
    model: str  # version that answered, if it said so


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url", help="of the service")
    parser.add_argument("images", type=Path, help="golden set, whose images are sent")
    parser.add_argument("--rate", type=float, default=80.0, help="requests a second (default: 80)")
    parser.add_argument("--callers", type=int, default=6, help="at most so many wait at a time")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    # Ctrl-C reaches every program of the terminal, and whoever started this one ends it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    bodies = [
        json.dumps({"image": base64.b64encode(image.data).decode()}).encode()
        for image in read_golden_set(options.images).images
    ]
    random.Random(options.seed).shuffle(bodies)
    call_until_told(options.url, bodies, options.rate, options.callers)
    return 0


def call_until_told(url: str, bodies: Sequence[bytes], rate: float, callers: int) -> None:
    """Calls until standard input ends: whoever started it has closed it, or is gone."""
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
    """Numbers and moments of requests; what was missed while all callers waited is not made up."""
    moment = time.monotonic()
    for turn in itertools.count():
        yield turn, moment
        moment = max(moment + 1 / rate, time.monotonic())


class _Caller:
    """A connection that is kept, and made anew when it breaks."""

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
