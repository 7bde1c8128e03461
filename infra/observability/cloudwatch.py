"""CloudWatch alarms of one function, for the Terraform module infra/terraform/modules/alarms.

An alarm selects series by name and the full set of dimensions, so the series of EMF lines
(serve/aws_lambda/embedded_metrics.py) and of Lambda itself are listed here in full.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from infra.observability.catalogue import Alert, Catalogue, Metric, Objective, kebab

_GENERATED = ["From infra/observability/catalogue.toml: bazel run //infra/observability:generate"]
NAMESPACE, LAMBDA = "Kiln", "AWS/Lambda"

# Service errors with a 5xx status: serve/errors.py, a test compares.
SERVER_ERRORS = ("internal-error", "not-ready", "overloaded", "store-unavailable")
DRIFT_WINDOWS = ("300", "3000")  # images: common/model/drift.py, a test compares

# Alerts without a CloudWatch alarm, and the reason.
WITHOUT_ALARM = {
    "TelemetryLost": "without a collector nothing is exported",
    "CapturesLost": "capture is off by default, and responses are not affected",
    "FilesLeak": "an execution environment serves one request at a time and is short-lived",
    "ReleaseRolledBack": "the release manager notifies the topic itself, with its reasons",
    "GoldenAccuracyLow": "per version: the release manager judges it and rolls back",
    "MachineBusy": "Lambda's machines are managed by AWS",
    "MachineMemoryLow": "Lambda's machines are managed by AWS",
    "MachineDiskLow": "Lambda's machines are managed by AWS",
    "StackPartDown": "the stack runs on another machine",
    "AvailabilityFastBurn": "Lambda restarts processes itself: failures are in Errors",
    "AvailabilitySlowBurn": "Lambda restarts processes itself: failures are in Errors",
    "RecoveryTooSlow": "as Availability; the release manager's rollback has its own time limit",
}

SERVICE = {"service.name": "${var.service_name}"}
# Invocations through the alias: a smoke test of a version without traffic must not raise alarms.
CALLED = {
    "FunctionName": "${var.function_name}",
    "Resource": "${var.function_name}:${var.alias_name}",
}
# Routes whose answers are timed, by the ids of their series: a test compares with the catalogue.
ANSWERS = {
    "predict": "/predict",
    "infer": "/v2/models/{name}/infer",
    "infer_version": "/v2/models/{name}/versions/{version}/infer",
}

# Long and short window in seconds, times the budget's even pace. CloudWatch looks back one day at
# most, so the slowest pair of the workbook (three days) is left to Prometheus.
_FAST = ((14.4, 3600, 300), (6.0, 21600, 1800))
_SLOW = ((3.0, 86400, 7200),)


@dataclass(frozen=True)
class Series:
    """A metric and a statistic of it."""

    metric: str
    dimensions: Mapping[str, str]
    statistic: str
    namespace: str = NAMESPACE


@dataclass(frozen=True)
class Alarm:
    """A value compared with a limit; several series are combined by an expression over their
    ids.
    """

    name: str  # from the catalogue, in kebab case
    description: str
    series: Mapping[str, Series]
    limit: float
    period_s: int
    severity: str
    expression: str = ""
    below: bool = False


@dataclass(frozen=True)
class Composite:
    """An alarm over others."""

    name: str
    description: str
    pairs: Sequence[tuple[str, str]] = field(default_factory=list)
    severity: str = "page"


def alarms(catalogue: Catalogue) -> list[Alarm]:
    """Alarms for the catalogue's alerts."""
    return [
        _alarm(catalogue, metric, alert)
        for metric, alert in catalogue.alerts
        if alert.name not in WITHOUT_ALARM
    ]


def parts(catalogue: Catalogue) -> list[Alarm]:
    """Alarms on single windows of the burn rate."""
    return [
        _burn(composite, objective, factor, window)
        for composite, objective, steps in _burning(catalogue)
        for factor, *windows in steps
        for window in windows
    ]


def composites(catalogue: Catalogue) -> list[Composite]:
    """Burn-rate alarms: a long and a short window together."""
    return [
        Composite(
            name,
            f"{objective.promise}: the error budget burns "
            + " or ".join(f"{factor:g} times too fast" for factor, *_ in steps)
            + f". {catalogue.runbook_of(name)}",
            [(_part(name, long), _part(name, short)) for _, long, short in steps],
            "page" if name.endswith("fast-burn") else "warning",
        )
        for name, objective, steps in _burning(catalogue)
    ]


def alarms_file(catalogue: Catalogue) -> dict[str, Any]:
    """`alarms.tf.json`: values from which the module's main.tf creates alarms."""
    found = alarms(catalogue)
    pages = [f"${{var.name}}-{one.name}" for one in found if one.severity == "page"]
    return {
        "//": [*_GENERATED, "Alerts without an alarm here:"]
        + [f"{name}: {reason}" for name, reason in WITHOUT_ALARM.items()],
        "variable": {
            "service_name": {
                "type": "string",
                "description": "OTEL_SERVICE_NAME of the function.",
                "default": "kiln",
            }
        },
        "locals": {"alarms": {one.name: _values(one) for one in found}},
        "output": {
            "page_names": {
                "description": "Alarms of severity page, which roll a release back.",
                "value": pages,
            }
        },
    }


def burn_file(catalogue: Catalogue) -> dict[str, Any]:
    """`burn.tf.json`: an alarm per window without actions, and composite alarms over them."""
    switch = "${var.burn_rate_alarms ? 1 : 0}"
    return {
        "//": _GENERATED,
        "variable": {
            "burn_rate_alarms": {
                "type": "bool",
                "description": "Watch the error budgets by composite alarms, which moto lacks.",
                "default": True,
            }
        },
        "resource": {
            "aws_cloudwatch_metric_alarm": {
                _id(part.name): {"count": switch, **_part_resource(part)}
                for part in parts(catalogue)
            },
            "aws_cloudwatch_composite_alarm": {
                _id(one.name): {"count": switch, **_over(one)} for one in composites(catalogue)
            },
        },
        "output": {
            "burn_rate_names": {
                "description": "Names of the alarms over windows.",
                "value": "${concat("
                + ", ".join(
                    f"aws_cloudwatch_composite_alarm.{_id(one.name)}[*].alarm_name"
                    for one in composites(catalogue)
                )
                + ")}",
            }
        },
    }


def dashboard_file() -> dict[str, Any]:
    """`dashboard.tf.json`, beside the template that it renders."""
    values = "region = data.aws_region.current.id, function_name = var.function_name, "
    values += "service_name = var.service_name"
    return {
        "//": _GENERATED,
        "data": {"aws_region": {"current": {}}},
        "resource": {
            "aws_cloudwatch_dashboard": {
                "this": {
                    "dashboard_name": "${var.name}",
                    "dashboard_body": '${templatefile("${path.module}/dashboard.json.tftpl", '
                    f"{{ {values} }})}}",
                }
            }
        },
        "output": {
            "dashboard_name": {
                "description": "The CloudWatch dashboard.",
                "value": "${aws_cloudwatch_dashboard.this.dashboard_name}",
            }
        },
    }


# ---- Alarms of alerts ---------------------------------------------------------------------------


def _alarm(catalogue: Catalogue, metric: Metric, alert: Alert) -> Alarm:
    limit = alert.above if alert.above is not None else alert.below
    assert limit is not None
    series, expression = _series(metric, alert)
    if alert.statistic == "rate":
        limit *= alert.window_s
    return Alarm(
        kebab(alert.name),
        f"{alert.means} {catalogue.runbook_of(alert.name)}",
        series,
        limit,
        alert.window_s,
        alert.severity,
        expression,
        alert.below is not None,
    )


def _series(metric: Metric, alert: Alert) -> tuple[dict[str, Series], str]:
    match alert.statistic:
        case "share":
            return _failures()
        case "p50" | "p95" | "p99":
            by_route = _answers(metric.name, alert.statistic)
            return by_route, f"MAX([{', '.join(by_route)}])"
        case "rate" | "increase":
            return {"value": Series(metric.name, {**SERVICE, **(alert.matching or {})}, "Sum")}, ""
    extreme = {"max": "Maximum", "min": "Minimum"}[alert.statistic]
    if metric.labels == ("window",):
        by_window = {
            f"window_{images}": Series(metric.name, {**SERVICE, "window": images}, extreme)
            for images in DRIFT_WINDOWS
        }
        return by_window, f"{alert.statistic.upper()}([{', '.join(by_window)}])"
    assert not metric.labels, f"no way to alarm on {metric.name}: which {metric.labels}?"
    return {"value": Series(metric.name, SERVICE, extreme)}, ""


def _failures() -> tuple[dict[str, Series], str]:
    """5xx responses and crashed invocations, divided by invocations."""
    series = {"calls": Series("Invocations", CALLED, "Sum", LAMBDA)}
    series["crashed"] = Series("Errors", CALLED, "Sum", LAMBDA)
    for kind in SERVER_ERRORS:
        dimensions = {**SERVICE, "error.type": kind}
        series[kind.replace("-", "_")] = Series("kiln.errors", dimensions, "Sum")
    bad = " + ".join(f"FILL({one}, 0)" for one in series if one != "calls")
    return series, f"({bad}) / calls"


def _answers(metric: str, statistic: str, suffix: str = "") -> dict[str, Series]:
    """A series for each route, by its id with the suffix."""
    return {
        name + suffix: Series(
            metric,
            {
                **SERVICE,
                "http.request.method": "POST",
                "http.route": route,
                "http.response.status_code": "200",
            },
            statistic,
        )
        for name, route in ANSWERS.items()
    }


def _slow(threshold_s: float) -> tuple[dict[str, Series], str]:
    """The share of answers that took longer, of all routes together."""
    duration = "http.server.request.duration"
    all_of = _answers(duration, "SampleCount", "_all")
    within = _answers(duration, f"PR(:{threshold_s:g})", "_within")  # percentage of values up to it
    slow = (
        f"FILL({count}, 0) * (1 - FILL({share}, 100) / 100)"
        for count, share in zip(all_of, within, strict=True)
    )
    total = " + ".join(f"FILL({count}, 0)" for count in all_of)
    return all_of | within, f"({' + '.join(slow)}) / ({total})"


# ---- Burn rates ---------------------------------------------------------------------------------

_Steps = tuple[tuple[float, int, int], ...]


def _burning(catalogue: Catalogue) -> Iterator[tuple[str, Objective, _Steps]]:
    for objective in catalogue.objectives:
        for suffix, steps in (("FastBurn", _FAST), ("SlowBurn", _SLOW)):
            if (name := objective.alert + suffix) not in WITHOUT_ALARM:
                yield kebab(name), objective, steps


def _burn(composite: str, objective: Objective, factor: float, window_s: int) -> Alarm:
    if objective.threshold_s is None:
        series, expression = _failures()
    else:
        series, expression = _slow(objective.threshold_s)
    return Alarm(
        _part(composite, window_s),
        f"{objective.promise}: {factor:g} times the sustainable burn rate. Part of {composite}.",
        series,
        round(factor * objective.budget, 9),
        window_s,
        "page" if composite.endswith("fast-burn") else "warning",
        expression,
    )


def _part(composite: str, window_s: int) -> str:
    return f"{composite}-{window_s // 60}m"


# ---- As Terraform reads it ----------------------------------------------------------------------


def _values(alarm: Alarm) -> dict[str, Any]:
    return {
        "description": alarm.description,
        "threshold": alarm.limit,
        **({"comparison": "LessThanThreshold"} if alarm.below else {}),
        "queries": _queries(alarm),
    }


def _queries(alarm: Alarm) -> dict[str, dict[str, Any]]:
    queries: dict[str, dict[str, Any]] = {
        name: {
            "namespace": series.namespace,
            "metric_name": series.metric,
            "dimensions": dict(series.dimensions),
            "period": alarm.period_s,
            "stat": series.statistic,
            "return_data": not alarm.expression,
        }
        for name, series in alarm.series.items()
    }
    if alarm.expression:
        result = {"expression": alarm.expression, "label": alarm.name, "return_data": True}
        queries["result"] = result
    return queries


def _part_resource(alarm: Alarm) -> dict[str, Any]:
    return {
        "alarm_name": f"${{var.name}}-{alarm.name}",
        "alarm_description": alarm.description,
        "comparison_operator": "GreaterThanThreshold",
        "threshold": alarm.limit,
        "evaluation_periods": 1,
        "treat_missing_data": "notBreaching",  # no traffic is not an outage
        "metric_query": [_block(name, query) for name, query in _queries(alarm).items()],
    }


def _block(name: str, query: dict[str, Any]) -> dict[str, Any]:
    if "expression" in query:
        return {"id": name, **query}
    return_data = query.pop("return_data")
    return {"id": name, "return_data": return_data, "metric": query}


def _over(alarm: Composite) -> dict[str, Any]:
    def named(part: str) -> str:
        return f'ALARM("${{aws_cloudwatch_metric_alarm.{_id(part)}[0].alarm_name}}")'

    rule = " OR ".join(f"({named(long)} AND {named(short)})" for long, short in alarm.pairs)
    return {
        "alarm_name": f"${{var.name}}-{alarm.name}",
        "alarm_description": alarm.description,
        "alarm_rule": rule,
        "alarm_actions": ["${var.sns_topic_arn}"],
        "ok_actions": ["${var.sns_topic_arn}"],
    }


def _id(name: str) -> str:
    return name.replace("-", "_")
