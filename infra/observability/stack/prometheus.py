"""Prometheus' configuration, of the local stack as of the one in containers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def prometheus_config(
    alertmanager: str, scraped: Mapping[str, str], rules: str, interval_s: int = 15
) -> dict[str, Any]:
    """`prometheus.yml`: the service's metrics are pushed, the stack's parts are scraped.

    Args:
        scraped: job to host:port.
        rules: path of the rule file, as Prometheus sees it.
    """
    jobs = {**scraped, "alertmanager": alertmanager}
    return {
        "global": {
            "scrape_interval": f"{interval_s}s",
            "evaluation_interval": f"{interval_s}s",
        },
        "rule_files": [rules],
        "alerting": {"alertmanagers": [{"static_configs": [{"targets": [alertmanager]}]}]},
        # Two processes' exports may overtake each other on the way.
        "storage": {"tsdb": {"out_of_order_time_window": "10m"}},
        "scrape_configs": [
            {"job_name": job, "static_configs": [{"targets": [target]}]}
            for job, target in sorted(jobs.items())
        ],
    }
