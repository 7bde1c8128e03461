"""Grafana dashboard of the service: objectives, requests, processes."""

from __future__ import annotations

from infra.observability.catalogue import Catalogue
from infra.observability.dashboard_panels import Dashboard, Panel, panel

_OURS = 'kiln_model_version=~"$version"'
_CALLS = f'kiln:requests:increase5m{{http_route!~"/health|/ready",{_OURS}}}'
_FAILED = (
    f'kiln:requests:increase5m{{http_route!~"/health|/ready",{_OURS},'
    'http_response_status_code=~"5.."}'
)
_PER_SECOND = "/ 300"  # of what is counted over five minutes


def service(catalogue: Catalogue) -> Dashboard:
    """The first dashboard to look at."""
    return Dashboard(
        "kiln-service",
        "Kiln: service",
        "Promises and their budgets, requests, processes, the machine.",
        [
            ("Now", _now()),
            ("Promises: objectives over 30 days", _objectives(catalogue)),
            ("Requests", _requests(catalogue)),
            ("Processes", _processes(catalogue)),
            ("Machine", _machine(catalogue)),
            ("Alerts and the stack itself", _stack()),
        ],
    )


def _now() -> list[Panel]:
    return [
        panel(
            "Up",
            "short",
            ("kiln:up:bool", "up"),
            kind="stat",
            width=4,
            warn_below=1,
            description="1: a process reports and at most 5 % of the answers are 5xx",
        ),
        panel(
            "Requests a second", "reqps", (f"sum({_CALLS}) {_PER_SECOND}", ""), kind="stat", width=4
        ),
        panel(
            "Failed, share of five minutes",
            "percentunit",
            (f"(sum({_FAILED}) or vector(0)) / sum({_CALLS})", ""),
            kind="stat",
            width=4,
            warn_above=0.001,
        ),
        panel(
            "p99 of /predict",
            "s",
            (f'max(kiln:latency:p99_5m{{http_route="/predict",{_OURS}}})', ""),
            kind="stat",
            width=4,
            warn_above=0.25,
        ),
        panel("Outage now", "s", ("kiln:outage:seconds", ""), kind="stat", width=4, warn_above=60),
        panel(
            "Longest outage in 30 days",
            "s",
            ("max_over_time(kiln:outage:seconds[30d])", ""),
            kind="stat",
            width=4,
            warn_above=300,
            description="Promised: under five minutes",
        ),
    ]


def _objectives(catalogue: Catalogue) -> list[Panel]:
    pace = " or ".join(
        f'kiln:slo_bad:ratio_1h{{slo="{one.name}"}} / {one.budget:g}'
        for one in catalogue.objectives
    )
    promises = "; ".join(f"{one.name}: {one.promise}" for one in catalogue.objectives)
    return [
        panel(
            "Error budget left",
            "percentunit",
            ("kiln:error_budget:remaining", "{{slo}}"),
            kind="gauge",
            warn_below=0.1,
            description=promises,
        ),
        panel(
            "Error budget left, over time",
            "percentunit",
            ("clamp_min(kiln:error_budget:remaining, -1)", "{{slo}}"),
            warn_below=0,
        ),
        panel(
            "Burn rate of the last hour",
            "short",
            (pace, "{{slo}}"),
            warn_above=14.4,
            description="1: the budget lasts exactly 30 days. Above 14.4 somebody is paged.",
        ),
    ]


def _requests(catalogue: Catalogue) -> list[Panel]:
    by_route = f"sum by (http_route, http_response_status_code) ({_CALLS}) {_PER_SECOND}"
    stage = "histogram_quantile(0.99, sum by (le, stage) (kiln:stage_bucket:increase5m))"
    slow = catalogue["http.server.request.duration"].alerts[1].above
    latencies = [
        (f'max(kiln:latency:p{p}_5m{{http_route="/predict",{_OURS}}})', f"p{p}")
        for p in (50, 95, 99)
    ]
    return [
        panel(
            "By route and status",
            "reqps",
            (by_route, "{{http_route}} {{http_response_status_code}}"),
            stacked=True,
        ),
        panel("Time to answer /predict", "s", *latencies, warn_above=slow),
        panel(
            "Errors by type",
            "reqps",
            (
                f"sum by (error_type) (kiln:errors:increase5m{{{_OURS}}}) {_PER_SECOND}",
                "{{error_type}}",
            ),
            description="Callers' mistakes, too: malformed-json, invalid-field and so on",
        ),
        panel(
            "Images refused in batches",
            "short",
            (
                f"sum by (error_type) (kiln:refused:increase5m{{{_OURS}}}) {_PER_SECOND}",
                "{{error_type}}",
            ),
            description="The rest of the batch was answered, and its request is no error",
        ),
        panel("Stages, p99", "s", (stage, "{{stage}}")),
        panel(
            "Turned away",
            "reqps",
            (f"sum(kiln:shed:increase5m{{{_OURS}}}) {_PER_SECOND}", "shed"),
            warn_above=1,
        ),
        panel(
            "Images waiting in a process",
            "short",
            (
                f"max by (service_instance_id) (max_over_time(kiln_queue_depth{{{_OURS}}}[5m]))",
                "{{service_instance_id}}",
            ),
            warn_above=catalogue["kiln.queue.depth"].alerts[0].above,
        ),
        panel(
            "Images run together",
            "short",
            *(
                (
                    f"histogram_quantile({q}, sum by (le) (kiln:batch_bucket:increase5m))",
                    f"p{int(q * 100)}",
                )
                for q in (0.5, 0.99)
            ),
        ),
        panel("Processes", "short", ("kiln:processes:count", "processes")),
        panel(
            "Starts: time until ready",
            "s",
            (f"max(kiln_cold_start_duration_seconds{{{_OURS}}})", "slowest"),
            warn_above=catalogue["kiln.cold_start.duration"].alerts[0].above,
        ),
    ]


def _processes(catalogue: Catalogue) -> list[Panel]:
    def of_each(metric: str) -> tuple[str, str]:
        name = catalogue[metric].prometheus
        return f"max by (service_instance_id) ({name}{{{_OURS}}})", "{{service_instance_id}}"

    def limit(metric: str) -> float | None:
        return catalogue[metric].alerts[0].above

    files = "process.unix.file_descriptor.count"
    return [
        panel(
            "Processors used",
            "short",
            (
                f"sum by (cpu_mode) (kiln:cpu_seconds:increase5m{{{_OURS}}}) {_PER_SECOND}",
                "{{cpu_mode}}",
            ),
            stacked=True,
        ),
        panel(
            "Memory",
            "bytes",
            of_each("process.memory.usage"),
            warn_above=limit("process.memory.usage"),
        ),
        panel("Open files and sockets", "short", of_each(files), warn_above=limit(files)),
        panel("Threads", "short", of_each("process.thread.count"), width=12),
        panel("Uptime", "s", of_each("process.uptime"), width=12),
    ]


def _machine(catalogue: Catalogue) -> list[Panel]:
    cpu = catalogue["node.cpu"].prometheus
    available = catalogue["node.memory.MemAvailable"].prometheus
    total = catalogue["node.memory.MemTotal"].prometheus
    left, size = (catalogue[f"node.filesystem.{part}"].prometheus for part in ("avail", "size"))
    return [
        panel(
            "Processors busy",
            "percentunit",
            (f'1 - avg by (instance) (rate({cpu}{{mode="idle"}}[1m]))', "busy"),
            warn_above=0.9,
        ),
        panel("Memory used", "percentunit", (f"1 - {available} / {total}", "used"), warn_above=0.9),
        panel(
            "Disk used", "percentunit", (f"1 - {left} / {size}", "{{mountpoint}}"), warn_above=0.9
        ),
    ]


def _stack() -> list[Panel]:
    firing = 'count by (alertname, severity) (ALERTS{alertstate="firing"}) or on () vector(0)'
    return [
        panel(
            "Alerts that fire",
            "short",
            (firing, "{{severity}} {{alertname}}"),
            kind="bargauge",
            warn_above=1,
        ),
        panel(
            "Parts of the stack that answer",
            "short",
            ("up", "{{job}}"),
            kind="bargauge",
            warn_below=1,
        ),
        panel(
            "Telemetry lost",
            "short",
            (f"sum by (signal) (kiln_telemetry_dropped_total{{{_OURS}}})", "{{signal}}"),
            warn_above=1,
        ),
    ]
