"""The numbers on the page about costs, recomputed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tools.cost.model import (
    Service,
    Standing,
    per_month,
    per_thousand,
    read_prices,
    server_break_even,
)

PAGE = Path("docs/cost.md").read_text(encoding="utf-8")
PRICES = read_prices()
FP32 = Service(4, 1024, 230, 0.01)
ROWS = {
    "fp32, 4 ms billed": FP32,
    "fp32, 4 ms billed, 10 % cold starts": Service(4, 1024, 230, 0.1),
    "a photo of 100 ms": Service(100, 1024, 230, 0.01),
}
STANDING = {
    "ten images in ECR (66.7 MB each)": "images in ECR",
    "1 GB of models and ledger in S3": "models and ledger in S3",
    "15 alarms": "alarms",
    "a dashboard": "dashboards",
    "40 custom metrics": "metrics",
    "collector and Grafana on Fargate, 1 vCPU and 2 GB, when switched on": "collector and Grafana",
}


def cells(name: str) -> list[str]:
    [row] = re.findall(rf"^\| {re.escape(name)} \|(.*)\|$", PAGE, re.MULTILINE)
    return [cell.strip() for cell in row.split("|")]


@pytest.mark.parametrize(("name", "service"), ROWS.items())
def test_a_row_of_requests_is_what_the_formulae_give(name: str, service: Service) -> None:
    cost = per_thousand(service, PRICES)
    parts = (cost.compute, cost.requests, cost.front, cost.logs, cost.total)
    assert cells(name) == [f"${part:.5f}" for part in parts]


@pytest.mark.parametrize(("name", "part"), STANDING.items())
def test_a_row_of_standing_costs_is_what_the_formulae_give(name: str, part: str) -> None:
    month = per_month(Standing(collector_vcpu=1, collector_gb=2), PRICES)
    assert cells(name) == [f"${month[part]:.2f}"]


def test_sums_and_the_break_even_are_what_the_formulae_give() -> None:
    assert f"${sum(per_month(Standing(), PRICES).values()):.2f} a month" in PAGE
    assert f"at {server_break_even(FP32, PRICES, 1, 2):.0f} requests a second" in PAGE


def test_a_large_body_counts_several_times_at_the_front() -> None:
    large = per_thousand(Service(4, 1024, body_kb=1025), PRICES)
    assert large.front == pytest.approx(3 * per_thousand(FP32, PRICES).front)
