"""The numbers on the page about costs, recomputed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tools.model_card.comment import Service, per_thousand, read_prices

PAGE = Path("docs/cost.md").read_text(encoding="utf-8")
PRICES = read_prices()
INT8 = Service(2, 1024, 230, 0.01)
ROWS = {
    "INT8, 2 ms billed": INT8,
    "INT8, 2 ms billed, 10 % cold starts": Service(2, 1024, 230, 0.1),
    "fp32, 4 ms billed": Service(4, 1024, 230, 0.01),
    "a photo of 100 ms": Service(100, 1024, 230, 0.01),
}
HOURS = 730  # of a month
FARGATE, CLOUDWATCH = PRICES["fargate"], PRICES["cloudwatch"]
CONTAINER = HOURS * (1 * FARGATE["vcpu_hour"] + 2 * FARGATE["gb_hour"])
STANDING = {
    "ten images in ECR (63.8 MB each)": 10 * 0.0638 * PRICES["ecr"]["gb_month"],
    "1 GB of models and ledger in S3": PRICES["s3"]["gb_month"],
    "15 alarms": 15 * CLOUDWATCH["alarm_month"],
    "a dashboard": CLOUDWATCH["dashboard_month"],
    "40 custom metrics": 40 * CLOUDWATCH["metric_month"],
}


def cells(name: str) -> list[str]:
    [row] = re.findall(rf"^\| {re.escape(name)} \|(.*)\|$", PAGE, re.MULTILINE)
    return [cell.strip() for cell in row.split("|")]


@pytest.mark.parametrize(("name", "service"), ROWS.items())
def test_a_row_of_requests_is_what_the_formulae_give(name: str, service: Service) -> None:
    cost = per_thousand(service, PRICES)
    parts = (cost.compute, cost.requests, cost.front, cost.logs, cost.total)
    assert cells(name) == [f"${part:.5f}" for part in parts]


@pytest.mark.parametrize(("name", "month"), STANDING.items())
def test_a_row_of_standing_costs_is_number_times_price(name: str, month: float) -> None:
    assert cells(name) == [f"${month:.2f}"]


def test_sums_and_the_break_even_follow_from_the_rows() -> None:
    name = "collector and Grafana on Fargate, 1 vCPU and 2 GB, when switched on"
    assert cells(name) == [f"${CONTAINER:.2f}"]
    assert f"${sum(STANDING.values()):.2f} a month" in PAGE
    cost = per_thousand(INT8, PRICES)
    a_second = CONTAINER / ((cost.compute + cost.requests) / 1000) / (HOURS * 3600)
    assert f"at {a_second:.0f} requests a second" in PAGE


def test_a_large_body_counts_several_times_at_the_front() -> None:
    large = per_thousand(Service(4, 1024, body_kb=1025), PRICES)
    assert large.front == pytest.approx(3 * per_thousand(INT8, PRICES).front)
