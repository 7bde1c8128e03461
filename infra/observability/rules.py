"""Prometheus rules: recording rules, error budgets and alerts, and their common PromQL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from infra.observability.catalogue import Alert, Catalogue, Metric, Objective

# How long a process may be silent before it counts as a new one.
_MEMORY = "1h"


def added(series: str, window: str) -> str:
    """Exact increase of each series in the window."""
    return f"({series} - (last_over_time({series}[{_MEMORY}] offset {window}) or {series} * 0))"


def selector(name: str, matching: Mapping[str, str] | None = None) -> str:
    """A series selector with regular expressions for labels."""
    if not matching:
        return name
    inner = ",".join(f'{label(key)}=~"{value}"' for key, value in matching.items())
    return f"{name}{{{inner}}}"


def label(name: str) -> str:
    """An attribute's label name in Prometheus."""
    return name.replace(".", "_")


def quantile(number: float, of: str) -> str:
    """A quantile of histogram buckets that were summed by `le`."""
    return f"histogram_quantile({number:g}, {of})"


def alert_expression(catalogue: Catalogue, metric: Metric, alert: Alert) -> str:
    """An expression that yields series whose statistic is beyond its limit."""
    if alert.above is not None:
        return f"{_statistic(catalogue, metric, alert)} > {alert.above:.12g}"
    return f"{_statistic(catalogue, metric, alert)} < {alert.below:.12g}"


def _statistic(catalogue: Catalogue, metric: Metric, alert: Alert) -> str:
    name, window = metric.prometheus, alert.window
    match alert.statistic:
        case "share":
            some, everything = (
                f"sum({_growth(metric, matching, window)})" for matching in (alert.matching, None)
            )
            return f"{some} / {everything}"
        case "p50" | "p95" | "p99":
            buckets = added(selector(f"{name}_bucket", alert.matching), window)
            return quantile(int(alert.statistic[1:]) / 100, f"sum by (le) {buckets}")
        case "increase":
            return f"sum({_growth(metric, alert.matching, window)})"
        case "rate":
            return f"sum({_growth(metric, alert.matching, window)}) / {alert.window_s}"
    extreme = f"{alert.statistic}_over_time({selector(name, alert.matching)}[{window}])"
    if alert.of:
        extreme = f"({extreme} / {catalogue[alert.of].prometheus})"
    return f"{alert.statistic}{_by(metric.labels)}({extreme})"


def _growth(metric: Metric, matching: Mapping[str, str] | None, window: str) -> str:
    name = metric.prometheus + ("_count" if metric.kind == "histogram" else "")
    if metric.owner == "machine":  # scraped, and present as long as the machine
        return f"rate({selector(name, matching)}[{window}])"
    return added(selector(name, matching), window)


def _by(labels: Sequence[str]) -> str:
    return f" by ({', '.join(map(label, labels))}) " if labels else ""


BASE = "5m"  # window of recording rules; longer windows sum over it
_REQUESTS = "http_server_request_duration_seconds"
_BY_VERSION = "kiln_model_version"
# Long and short window, and multiple of the sustainable burn rate: The Site Reliability Workbook,
# chapter 5, table 5-8.
FAST: tuple[tuple[float, str, str], ...] = ((14.4, "1h", "5m"), (6, "6h", "30m"))
SLOW: tuple[tuple[float, str, str], ...] = ((3, "1d", "2h"), (1, "3d", "6h"))
PERIOD = "30d"
WINDOWS = ("5m", "30m", "1h", "2h", "6h", "1d", "3d", PERIOD)
# Probes must not improve the shares.
_PROBES = 'http_route!~"/health|/ready|/v2/health/.+|/v2/models/.+/ready"'
DOWN = 0.05  # share of 5xx from which the service counts as down
_Rule = dict[str, Any]


def rule_file(catalogue: Catalogue) -> dict[str, Any]:
    """The content of `kiln.rules.yml`."""
    return {
        "groups": [
            {"name": "kiln-recorded", "rules": _recorded()},
            {"name": "kiln-availability", "rules": _availability()},
            {"name": "kiln-objectives", "rules": _objectives(catalogue)},
            {"name": "kiln-alerts", "rules": _alerts(catalogue)},
            {"name": "kiln-burn-rates", "rules": _burn_rates(catalogue)},
        ]
    }


def managed_rule_file(catalogue: Catalogue) -> dict[str, Any]:
    """The rules for Managed Prometheus: without alerts on the machine, on the stack, and on absence
    of traffic, which for a function is no outage.
    """

    def applies(rule: _Rule) -> bool:
        labels = rule.get("labels", {})
        is_availability = labels.get("slo") == "availability"
        return "alert" not in rule or not (
            is_availability
            or labels["owner"] in ("machine", "prometheus")
            or rule["alert"] == catalogue.recovery.name
        )

    groups = rule_file(catalogue)["groups"]
    return {
        "groups": [
            group | {"rules": [rule for rule in group["rules"] if applies(rule)]}
            for group in groups
        ]
    }


def burn_alerts(objective: Objective) -> list[tuple[str, str, Sequence[tuple[float, str, str]]]]:
    """(name, severity, steps) of an objective's two alerts."""
    return [
        (f"{objective.alert}FastBurn", "page", FAST),
        (f"{objective.alert}SlowBurn", "warning", SLOW),
    ]


# ---- Recorded -----------------------------------------------------------------------------------


def _recorded() -> list[_Rule]:
    def growth(name: str, series: str, by: str) -> _Rule:
        return _record(f"kiln:{name}:increase5m", f"sum by ({by}) {added(series, BASE)}")

    routes = f"http_route, {_BY_VERSION}"
    buckets = "kiln:latency_bucket:increase5m"
    return [
        growth(
            "requests", f"{_REQUESTS}_count", f"{routes}, http_response_status_code, error_type"
        ),
        growth("latency_bucket", f"{_REQUESTS}_bucket", f"le, {routes}"),
        growth("latency_sum", f"{_REQUESTS}_sum", routes),
        growth("errors", "kiln_errors_total", f"error_type, {_BY_VERSION}"),
        growth("refused", "kiln_images_refused_total", f"error_type, {_BY_VERSION}"),
        growth("trailing", "kiln_images_trailing_total", f"image_type, {_BY_VERSION}"),
        growth("shed", "kiln_requests_shed_total", _BY_VERSION),
        growth("stage_bucket", "kiln_stage_duration_seconds_bucket", "le, stage"),
        growth("batch_bucket", "kiln_batch_size_bucket", "le"),
        growth("predictions", "kiln_predictions_total", f"class, {_BY_VERSION}"),
        growth("confidence_bucket", "kiln_confidence_bucket", f"le, {_BY_VERSION}"),
        growth("cpu_seconds", "process_cpu_time_seconds_total", f"cpu_mode, {_BY_VERSION}"),
        growth("drift_images", "kiln_drift_images_total", "signal, bin"),
        *(
            _record(
                f"kiln:latency:p{percent}_5m",
                quantile(percent / 100, f"sum by (le, {routes}) ({buckets})"),
            )
            for percent in (50, 95, 99)
        ),
        _record("kiln:drift_psi:5m", _psi()),
    ]


def _psi() -> str:
    """Population stability index of the fleet's traffic by signal; empty bins count as half an
    image.
    """
    seen = "kiln:drift_images:increase5m"
    of_signal = f"on (signal) group_left () sum by (signal) ({seen})"
    share = f"(({seen} + 0.5) / {of_signal})"
    reference = (
        "clamp_min(max by (signal, bin) (last_over_time(kiln_drift_reference_share_ratio[10m])), "
        "0.0005)"
    )
    return (
        f"sum by (signal) (({share} - {reference}) * ln({share} / {reference})) "
        f"and on (signal) sum by (signal) ({seen}) >= 50"
    )


# ---- Objectives ---------------------------------------------------------------------------------


def _availability() -> list[_Rule]:
    total, failed = _requests()
    share = f"({failed} / {total})"
    return [
        _record(
            "kiln:processes:count",
            "count(count by (service_instance_id) (last_over_time(process_uptime_seconds[3m])))"
            " or vector(0)",
        ),
        # NaN, without requests, exceeds nothing.
        _record(
            "kiln:up:bool",
            f"(kiln:processes:count > bool 0) * (1 - (({share} > bool {DOWN}) or vector(0)))",
        ),
        _record(
            "kiln:up:last_seconds",
            "max(timestamp(kiln:up:bool == 1)) or max(last_over_time(kiln:up:last_seconds[1h]))",
        ),
        _record("kiln:outage:seconds", "time() - kiln:up:last_seconds"),
    ]


def _objectives(catalogue: Catalogue) -> list[_Rule]:
    return [rule for objective in catalogue.objectives for rule in _objective(objective)]


def _objective(objective: Objective) -> list[_Rule]:
    total, bad = _counted(objective)
    labels = {"slo": objective.name}
    named = f'{{slo="{objective.name}"}}'
    rules = [
        _record("kiln:slo_total:increase5m", f"{total} or vector(0)", labels),
        _record("kiln:slo_bad:increase5m", f"{bad} or vector(0)", labels),
    ]
    for window in WINDOWS:
        sums = [_sum(f"kiln:slo_{part}:increase5m{named}", window) for part in ("bad", "total")]
        # No traffic counts as no failure.
        ratio = f"{sums[0]} / ({sums[1]} > 0) or {sums[0]} * 0"
        rules.append(_record(f"kiln:slo_bad:ratio_{window}", ratio, labels))
    remaining = f"1 - kiln:slo_bad:ratio_{PERIOD}{named} / {objective.budget:g}"
    rules.append(_record("kiln:error_budget:remaining", remaining, labels))
    return rules


def _counted(objective: Objective) -> tuple[str, str]:
    if objective.threshold_s is not None:
        everything, within = (
            f'sum(kiln:latency_bucket:increase5m{{http_route=~"{objective.routes}",le="{bound}"}})'
            for bound in ("+Inf", f"{objective.threshold_s:g}")
        )
        return everything, f"({everything} - {within})"
    if objective.name == "availability":
        # Only since the service was first up.
        once_up = "kiln:up:last_seconds"
        return f"count({once_up})", f"((1 - kiln:up:bool) and on () {once_up})"
    return _requests()


def _requests() -> tuple[str, str]:
    """PromQL for all requests, and for failed ones."""
    counted = f"kiln:requests:increase5m{{{_PROBES}"
    return f"sum({counted}}})", f'sum({counted},http_response_status_code=~"5.."}})'


def _sum(series: str, window: str) -> str:
    return series if window == BASE else f"sum_over_time({series}[{window}])"


# ---- Alerts -------------------------------------------------------------------------------------


def _alerts(catalogue: Catalogue) -> list[_Rule]:
    rules = [
        _alert(
            alert.name,
            alert_expression(catalogue, metric, alert),
            {"severity": alert.severity, "owner": metric.owner},
            alert.means,
            alert.look,
            catalogue,
        )
        for metric, alert in catalogue.alerts
        if metric.owner != "aws"
    ]
    recovery = catalogue.recovery
    labels = {"severity": recovery.severity, "owner": "service"}
    over = f"kiln:outage:seconds > {recovery.limit_s}"
    return [*rules, _alert(recovery.name, over, labels, recovery.means, recovery.look, catalogue)]


def _burn_rates(catalogue: Catalogue) -> list[_Rule]:
    return [
        _alert(
            name,
            " or ".join(_burns(objective, *step) for step in steps),
            {"severity": severity, "owner": "service", "slo": objective.name},
            f"{objective.promise}; at this rate the error budget of 30 days is gone in "
            f"{_left(steps)}.",
            objective.look,
            catalogue,
        )
        for objective in catalogue.objectives
        for name, severity, steps in burn_alerts(objective)
    ]


def _burns(objective: Objective, factor: float, long: str, short: str) -> str:
    limit = f"{factor * objective.budget:.9g}"
    parts = (
        f'kiln:slo_bad:ratio_{window}{{slo="{objective.name}"}} > {limit}'
        for window in (long, short)
    )
    return f"({' and '.join(parts)})"


def _left(steps: Sequence[tuple[float, str, str]]) -> str:
    slowest = min(factor for factor, *_ in steps)
    return f"{30 / slowest:g} days or less"


def _record(name: str, expression: str, labels: dict[str, str] | None = None) -> _Rule:
    return {"record": name, "expr": expression, **({"labels": labels} if labels else {})}


def _alert(
    name: str,
    expression: str,
    labels: dict[str, str],
    means: str,
    look: Sequence[str],
    catalogue: Catalogue,
) -> _Rule:
    return {
        "alert": name,
        "expr": expression,
        "labels": labels,
        "annotations": {
            "summary": means,
            "description": "Look at " + "; ".join(look) + ".",
            "value": "{{ $value | humanize }}",
            "runbook_url": catalogue.runbook_of(name),
        },
    }
