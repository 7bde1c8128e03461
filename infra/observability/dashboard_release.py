"""Grafana dashboards of releases and cost, and the list of all dashboards."""

from __future__ import annotations

from infra.observability.catalogue import Catalogue
from infra.observability.dashboard_model import drift, quality
from infra.observability.dashboard_panels import Constant, Dashboard, panel
from infra.observability.dashboard_service import service

_OURS = 'kiln_model_version=~"$version"'
_REQUESTS = 'kiln:requests:increase5m{http_route!~"/health|/ready",'


def release(catalogue: Catalogue) -> Dashboard:
    """What the release manager does, and what it looks at."""
    failed = f'sum by (kiln_model_version) ({_REQUESTS}http_response_status_code=~"5..",{_OURS}}})'
    all_of_them = f"sum by (kiln_model_version) ({_REQUESTS}{_OURS}}})"

    def of(name: str, legend: str) -> tuple[str, str]:
        return f"max({catalogue[name].prometheus})", legend

    golden = catalogue["kiln.golden.accuracy"]
    return Dashboard(
        "kiln-release",
        "Kiln: releases",
        "Step, share and verdict of the release manager; requests of each version.",
        [
            (
                "The release manager",
                [
                    panel(
                        "Candidate's share",
                        "percentunit",
                        of("kiln.release.candidate_weight", "candidate"),
                    ),
                    panel(
                        "Verdict",
                        "short",
                        of("kiln.release.verdict", "verdict"),
                        description="-1 roll back, 0 hold, 1 promote",
                        warn_below=0,
                    ),
                    panel("Step", "short", of("kiln.release.step", "step")),
                ],
            ),
            (
                "Versions beside each other",
                [
                    panel(
                        "Requests a second",
                        "reqps",
                        (f"{all_of_them} / 300", "{{kiln_model_version}}"),
                        stacked=True,
                    ),
                    panel(
                        "Failed, share",
                        "percentunit",
                        (
                            f"({failed} or {all_of_them} * 0) / {all_of_them}",
                            "{{kiln_model_version}}",
                        ),
                        warn_above=0.001,
                    ),
                    panel(
                        "p99 of /predict",
                        "s",
                        (
                            f'kiln:latency:p99_5m{{http_route="/predict",{_OURS}}}',
                            "{{kiln_model_version}}",
                        ),
                    ),
                    panel(
                        "Golden images answered rightly",
                        "percentunit",
                        (
                            f"max by (faas_version) ({golden.prometheus})",
                            "version {{faas_version}}",
                        ),
                        warn_below=golden.alerts[0].below,
                        width=24,
                    ),
                ],
            ),
        ],
    )


def cost(catalogue: Catalogue) -> Dashboard:
    """What an answer takes, and what it would cost on Lambda."""
    cpu = f"sum(kiln:cpu_seconds:increase5m{{{_OURS}}})"
    images = f"sum(kiln:predictions:increase5m{{{_OURS}}})"
    requests = f"sum({_REQUESTS}{_OURS}}})"
    seconds = f"sum(kiln:latency_sum:increase5m{{{_OURS}}})"
    memory = f"sum({catalogue['process.memory.usage'].prometheus}{{{_OURS}}})"
    bill = f"({seconds} * $memory_gb * $price_gb_s + {requests} * $price_request)"
    return Dashboard(
        "kiln-cost",
        "Kiln: cost",
        "Processor time and memory for each answer, and Lambda's price for the same traffic.",
        [
            (
                "What an answer takes",
                [
                    panel("Processor time of an image", "s", (f"{cpu} / {images}", "seconds")),
                    panel(
                        "Images for each second of a processor",
                        "short",
                        (f"{images} / {cpu}", "images"),
                    ),
                    panel("Memory of all processes", "bytes", (memory, "memory")),
                ],
            ),
            (
                "The same traffic on Lambda",
                [
                    panel(
                        "Dollars an hour",
                        "currencyUSD",
                        (f"{bill} * 12", "on Lambda"),
                        description="Without cold starts; an environment answers one at a time",
                    ),
                    panel(
                        "Dollars for a million requests",
                        "currencyUSD",
                        (f"{bill} / {requests} * 1e6", "on Lambda"),
                    ),
                    panel(
                        "Starts of processes", "short", ("count(kiln_cold_starts_total)", "starts")
                    ),
                ],
            ),
        ],
        [
            Constant("memory_gb", "Memory of the function, GB", "1"),
            Constant("price_gb_s", "Dollars for a GB-second", "0.0000166667"),
            Constant("price_request", "Dollars for a request", "0.0000002"),
        ],
    )


def dashboards(catalogue: Catalogue) -> list[Dashboard]:
    """All dashboards, in the order in which people look at them."""
    return [make(catalogue) for make in (service, quality, drift, release, cost)]
