"""The cost of requests; docs/cost.md explains it, and a test recomputes its numbers.

Uses only the standard library.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from pathlib import Path

PRICES = Path(__file__).with_name("prices.toml")
REQUEST_KB = 512  # API Gateway counts larger requests as several
GIB, MB = 1 << 30, 10**6

Prices = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class Service:
    """The parameters of a request's cost.

    Attributes:
        duration_ms: billed time of a warm request, on average.
        start_ms: billed time of a cold start; AWS bills the initialisation too.
        cold_share: share of requests that start a new environment.
        body_kb: size of request or response, whichever is larger; at most REQUEST_KB.
        log_bytes: log volume of a request in CloudWatch Logs.
    """

    duration_ms: float
    memory_mib: int
    start_ms: float = 0.0
    cold_share: float = 0.0
    body_kb: float = 4.0
    log_bytes: float = 600.0


@dataclass(frozen=True)
class PerThousand:
    """US dollars per thousand requests, by part."""

    compute: float
    requests: float
    front: float
    logs: float

    @property
    def total(self) -> float:
        """The sum of all parts."""
        return self.compute + self.requests + self.front + self.logs


def read_prices(path: Path = PRICES) -> Prices:
    """Reads the checked-in prices, or another file."""
    return tomllib.loads(path.read_text(encoding="utf-8"))


def per_thousand(service: Service, prices: Prices) -> PerThousand:
    """Lambda behind API Gateway, with its logs."""
    billed_s = (service.duration_ms + service.cold_share * service.start_ms) / 1000
    counted = ceil(service.body_kb / REQUEST_KB)
    return PerThousand(
        compute=1000 * billed_s * service.memory_mib / 1024 * prices["lambda"]["gib_second"],
        requests=1000 * prices["lambda"]["million_requests"] / 10**6,
        front=1000 * counted * prices["api_gateway_http"]["million_requests"] / 10**6,
        logs=1000 * service.log_bytes / 10**9 * prices["cloudwatch"]["log_gb"],
    )
