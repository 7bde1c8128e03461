"""What running the service costs; docs/cost.md explains it, and a test recomputes its numbers.

The standard library alone.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from pathlib import Path

PRICES = Path(__file__).with_name("prices.toml")
HOURS = 730  # of a month
REQUEST_KB = 512  # API Gateway counts a larger one as several
GIB, MB = 1 << 30, 10**6

Prices = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class Service:
    """What decides the cost of requests.

    Attributes:
        duration_ms: billed time of a warm request, on average.
        start_ms: billed time of a cold start; AWS bills the initialisation too.
        cold_share: of requests that start a new environment.
        body_kb: request and answer, each at most REQUEST_KB, the larger of the two.
        log_bytes: of a request, in CloudWatch Logs.
    """

    duration_ms: float
    memory_mib: int
    start_ms: float = 0.0
    cold_share: float = 0.0
    body_kb: float = 4.0
    log_bytes: float = 600.0


@dataclass(frozen=True)
class PerThousand:
    """US dollars for a thousand requests, by part."""

    compute: float
    requests: float
    front: float
    logs: float

    @property
    def total(self) -> float:
        """The sum of all parts."""
        return self.compute + self.requests + self.front + self.logs


def read_prices(path: Path = PRICES) -> Prices:
    """Reads the prices that are checked in, or another file."""
    return tomllib.loads(path.read_text(encoding="utf-8"))


def per_thousand(service: Service, prices: Prices) -> PerThousand:
    """Lambda behind API Gateway, with its log lines."""
    billed_s = (service.duration_ms + service.cold_share * service.start_ms) / 1000
    counted = ceil(service.body_kb / REQUEST_KB)
    return PerThousand(
        compute=1000 * billed_s * service.memory_mib / 1024 * prices["lambda"]["gib_second"],
        requests=1000 * prices["lambda"]["million_requests"] / 10**6,
        front=1000 * counted * prices["api_gateway_http"]["million_requests"] / 10**6,
        logs=1000 * service.log_bytes / 10**9 * prices["cloudwatch"]["log_gb"],
    )


@dataclass(frozen=True)
class Standing:
    """What costs the same without a request: numbers of things and stored gigabytes."""

    images: int = 10
    image_mb: float = 66.7
    registry_gb: float = 1.0
    alarms: int = 15
    dashboards: int = 1
    metrics: int = 40
    collector_vcpu: float = 0.0
    collector_gb: float = 0.0


def per_month(standing: Standing, prices: Prices) -> dict[str, float]:
    """US dollars a month, by part."""
    fargate = prices["fargate"]
    return {
        "images in ECR": standing.images * standing.image_mb / 1000 * prices["ecr"]["gb_month"],
        "models and ledger in S3": standing.registry_gb * prices["s3"]["gb_month"],
        "alarms": standing.alarms * prices["cloudwatch"]["alarm_month"],
        "dashboards": standing.dashboards * prices["cloudwatch"]["dashboard_month"],
        "metrics": standing.metrics * prices["cloudwatch"]["metric_month"],
        "collector and Grafana": HOURS
        * (
            standing.collector_vcpu * fargate["vcpu_hour"]
            + standing.collector_gb * fargate["gb_hour"]
        ),
    }


def server_break_even(service: Service, prices: Prices, vcpu: float, memory_gb: float) -> float:
    """Requests a second, day and night, from which a container of that size is cheaper than Lambda.

    Both behind the same front, so that only computing counts; the container must also be able to
    answer that many.
    """
    fargate = prices["fargate"]
    month = HOURS * (vcpu * fargate["vcpu_hour"] + memory_gb * fargate["gb_hour"])
    cost = per_thousand(service, prices)
    return month / ((cost.compute + cost.requests) / 1000) / (HOURS * 3600)
