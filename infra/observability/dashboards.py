"""The dashboards: Grafana's, read from dashboards.toml, and the one of CloudWatch."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from infra.observability.catalogue import Catalogue, Metric

Kind = Literal["timeseries", "stat", "gauge", "bargauge"]

PATH = Path(__file__).with_name("dashboards.toml")
_COLUMNS = 24  # columns of Grafana's grid
_HEIGHT = 8
_SCHEMA = 39  # of Grafana 11 and later
_SOURCE = {"type": "prometheus", "uid": "${datasource}"}


@dataclass(frozen=True)
class Query:
    """A PromQL query and its series' legend."""

    expression: str
    legend: str


@dataclass(frozen=True)
class Panel:
    """One panel of a dashboard; dashboards.toml explains the fields."""

    title: str
    unit: str
    queries: tuple[Query, ...]
    description: str = ""
    kind: Kind = "timeseries"
    stacked: bool = False
    width: int = 8
    warn_above: float | None = None
    warn_below: float | None = None
    overview: bool = False


@dataclass(frozen=True)
class Constant:
    """A number that a reader of the dashboard may change."""

    name: str
    label: str
    value: str


@dataclass(frozen=True)
class Dashboard:
    """Rows of panels with titles."""

    uid: str
    title: str
    description: str
    rows: tuple[tuple[str, tuple[Panel, ...]], ...]
    constants: tuple[Constant, ...] = ()

    @property
    def panels(self) -> list[Panel]:
        """All panels of the dashboard."""
        return [panel for _, panels in self.rows for panel in panels]

    def filled(self, expression: str) -> str:
        """The expression with all versions and the constants' defaults filled in."""
        for name, value in [("version", ".*"), *((c.name, c.value) for c in self.constants)]:
            expression = expression.replace(f"${name}", value)
        return expression


def dashboards(catalogue: Catalogue, path: Path = PATH) -> list[Dashboard]:
    """All dashboards, in display order."""
    return [
        Dashboard(
            entry["uid"],
            entry["title"],
            entry["description"],
            tuple(
                (row["title"], tuple(_panel(one, catalogue) for one in row["panel"]))
                for row in entry["row"]
            ),
            tuple(Constant(**one) for one in entry.get("constants", ())),
        )
        for entry in tomllib.loads(path.read_text(encoding="utf-8"))["dashboard"]
    ]


def _panel(entry: Mapping[str, Any], catalogue: Catalogue) -> Panel:
    objectives = catalogue.objectives
    shorthands = {
        "$burn_rates": " or ".join(
            f'kiln:slo_bad:ratio_1h{{slo="{one.name}"}} / {one.budget:g}' for one in objectives
        ),
        "$promises": "; ".join(f"{one.name}: {one.promise}" for one in objectives),
    }

    def written_out(text: str) -> str:
        for shorthand, meaning in shorthands.items():
            text = text.replace(shorthand, meaning)
        return text

    limits = {
        alert.name: alert.below if alert.above is None else alert.above
        for _, alert in catalogue.alerts
    }
    values = dict(entry)
    for name in ("warn_above", "warn_below"):
        if isinstance(alert := values.get(name), str):
            values[name] = limits[alert]
    values["queries"] = tuple(Query(written_out(text), legend) for text, legend in entry["queries"])
    values["description"] = written_out(entry.get("description", ""))
    return Panel(**values)


def grafana(dashboard: Dashboard) -> dict[str, Any]:
    """Provisioning files for Grafana."""
    return {
        "uid": dashboard.uid,
        "title": dashboard.title,
        "description": dashboard.description,
        "tags": ["kiln"],
        "schemaVersion": _SCHEMA,
        "editable": False,
        "graphTooltip": 1,  # shared crosshair
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "links": [
            {
                "type": "dashboards",
                "tags": ["kiln"],
                "title": "Kiln",
                "tooltip": "",
                "icon": "",
                "asDropdown": True,
                "includeVars": False,
                "keepTime": True,
                "targetBlank": False,
            }
        ],
        "templating": {"list": [*_variables(), *map(_constant, dashboard.constants)]},
        "annotations": {"list": [_alerts()]},
        "panels": _placed(dashboard),
    }


def _variables() -> list[dict[str, Any]]:
    return [
        {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus"},
        {
            "name": "version",
            "label": "Model version",
            "type": "query",
            "datasource": _SOURCE,
            "query": {"query": "label_values(kiln_model_info_ratio, version)", "refId": "version"},
            "refresh": 2,  # on a change of the time range
            "multi": True,
            "includeAll": True,
            "allValue": ".*",
            "current": {"text": "All", "value": "$__all"},
        },
    ]


def _constant(constant: Constant) -> dict[str, Any]:
    current = {"text": constant.value, "value": constant.value}
    return {
        "name": constant.name,
        "label": constant.label,
        "type": "textbox",
        "query": constant.value,
        "current": current,
    }


def _alerts() -> dict[str, Any]:
    return {
        "name": "Alerts",
        "datasource": _SOURCE,
        "enable": True,
        "iconColor": "red",
        "expr": 'ALERTS{alertstate="firing"}',
        "titleFormat": "{{alertname}}",
        "tagKeys": "severity",
    }


def _placed(dashboard: Dashboard) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    top = 0
    for title, panels in dashboard.rows:
        place = {"x": 0, "y": top, "w": _COLUMNS, "h": 1}
        found.append(
            {"id": len(found) + 1, "type": "row", "title": title, "gridPos": place, "panels": []}
        )
        top, left = top + 1, 0
        for one in panels:
            if left + one.width > _COLUMNS:
                top, left = top + _HEIGHT, 0
            place = {"x": left, "y": top, "w": one.width, "h": _HEIGHT}
            found.append(_described(one, len(found) + 1, place))
            left += one.width
        top += _HEIGHT
    return found


def _described(one: Panel, number: int, place: dict[str, int]) -> dict[str, Any]:
    is_line = one.kind == "timeseries"
    targets = [
        {
            "refId": chr(ord("A") + index),
            "datasource": _SOURCE,
            "expr": query.expression,
            "legendFormat": query.legend,
            "instant": not is_line,
            "range": is_line,
        }
        for index, query in enumerate(one.queries)
    ]
    return {
        "id": number,
        "type": one.kind,
        "title": one.title,
        "description": one.description,
        "gridPos": place,
        "datasource": _SOURCE,
        "targets": targets,
        "fieldConfig": {"defaults": _defaults(one), "overrides": []},
        "options": _options(one),
    }


def _defaults(one: Panel) -> dict[str, Any]:
    defaults: dict[str, Any] = {"unit": one.unit, "thresholds": _thresholds(one)}
    if one.kind == "timeseries":
        stacking = {"mode": "normal" if one.stacked else "none"}
        is_limited = one.warn_above is not None or one.warn_below is not None
        defaults["custom"] = {
            "stacking": stacking,
            "fillOpacity": 30 if one.stacked else 5,
            "showPoints": "never",
            "thresholdsStyle": {"mode": "line" if is_limited else "off"},
        }
    else:
        defaults["color"] = {"mode": "thresholds"}
    if one.unit == "percentunit":
        defaults |= {"min": 0} | ({} if one.kind == "timeseries" else {"max": 1})
    return defaults


def _thresholds(one: Panel) -> dict[str, Any]:
    if one.warn_below is not None:
        steps = [{"color": "red", "value": None}, {"color": "green", "value": one.warn_below}]
    elif one.warn_above is not None:
        steps = [{"color": "green", "value": None}, {"color": "red", "value": one.warn_above}]
    else:
        steps = [{"color": "blue", "value": None}]
    return {"mode": "absolute", "steps": steps}


def _options(one: Panel) -> dict[str, Any]:
    if one.kind == "timeseries":
        legend = {"displayMode": "list", "placement": "bottom", "showLegend": True}
        return {"legend": legend, "tooltip": {"mode": "multi", "sort": "desc"}}
    reduce = {"calcs": ["lastNotNull"], "fields": "", "values": False}
    return {"reduceOptions": reduce, "orientation": "auto", "textMode": "auto"}


_WIDGET_WIDTH, _WIDGET_HEIGHT, _ACROSS = 8, 6, 3  # of CloudWatch's 24 columns
_PERIOD_S = 300
_FUNCTION = {"FunctionName": "${function_name}"}
_VERSIONS = "FunctionName,Resource,ExecutedVersion"


def cloudwatch_template(catalogue: Catalogue) -> dict[str, Any]:
    """CloudWatch's dashboard for the Terraform module, with placeholders such as `${region}`.

    Unlike alarms, widgets may search for all series of a metric by their dimensions.
    """
    rows = [
        ("Service", _service(catalogue)),
        ("Releases", _release(catalogue)),
        ("Model and drift", _model(catalogue)),
        ("Function", _function()),
    ]
    widgets, top = [], 0
    for title, found in rows:
        widgets.append(_place({"type": "text", "properties": {"markdown": f"## {title}"}}, 0, top))
        widgets[-1] |= {"width": 24, "height": 1}
        top += 1
        for index, widget in enumerate(found):
            x, y = index % _ACROSS * _WIDGET_WIDTH, top + index // _ACROSS * _WIDGET_HEIGHT
            widgets.append(_place(widget, x, y))
        top += -(-len(found) // _ACROSS) * _WIDGET_HEIGHT
    return {"widgets": widgets}


def _service(catalogue: Catalogue) -> list[dict[str, Any]]:
    duration = catalogue["http.server.request.duration"]
    answered = ("http.request.method", "http.route", "http.response.status_code")
    return [
        _graph("Requests by route and status", [_search(duration, "SampleCount", answered)]),
        _graph("p99 by route, seconds", [_search(duration, "p99", answered)]),
        _graph("p50 by route, seconds", [_search(duration, "p50", answered)]),
        _graph("Errors by type", [_search(catalogue["kiln.errors"], "Sum")]),
        _graph("Turned away", [_search(catalogue["kiln.requests.shed"], "Sum")]),
        _graph("Stages, p99, seconds", [_search(catalogue["kiln.stage.duration"], "p99")]),
    ]


def _release(catalogue: Catalogue) -> list[dict[str, Any]]:
    verdict, weight = catalogue["kiln.release.verdict"], catalogue["kiln.release.candidate_weight"]
    return [
        _graph("Calls by version", [_by_version("Invocations", "Sum")]),
        _graph("Crashes and time-outs by version", [_by_version("Errors", "Sum")]),
        _graph("p99 by version, milliseconds", [_by_version("Duration", "p99")]),
        _graph("Verdict and candidate's share", [_anywhere(verdict), _anywhere(weight)]),
        _graph("Golden accuracy by version", [_anywhere(catalogue["kiln.golden.accuracy"])]),
    ]


def _model(catalogue: Catalogue) -> list[dict[str, Any]]:
    return [
        _graph("Class mix", [_search(catalogue["kiln.predictions"], "Sum")], stacked=True),
        _graph("Confidence, mean", [_search(catalogue["kiln.confidence"], "Average")]),
        _graph("Drift alarm by window", [_search(catalogue["kiln.drift.alarm"], "Maximum")]),
        _graph("Headroom of live accuracy", [_anywhere(catalogue["kiln.model.accuracy.headroom"])]),
    ]


def _function() -> list[dict[str, Any]]:
    def lambda_(name: str, statistic: str) -> list[Any]:
        pairs = [part for pair in _FUNCTION.items() for part in pair]
        return ["AWS/Lambda", name, *pairs, {"stat": statistic}]

    kiln = ["Kiln", "process.memory.usage", "service.name", "${service_name}", {"stat": "Maximum"}]
    cold = ["Kiln", "kiln.cold_starts", "service.name", "${service_name}", {"stat": "Sum"}]
    return [
        _graph(
            "Concurrency and throttles",
            [lambda_("ConcurrentExecutions", "Maximum"), lambda_("Throttles", "Sum")],
        ),
        _graph("Memory of a process, bytes", [kiln]),
        _graph("Cold starts", [cold]),
        _graph("Invocations per day (billed)", [lambda_("Invocations", "Sum")], 86400),
        _graph("Milliseconds per day (billed)", [lambda_("Duration", "Sum")], 86400),
    ]


def _graph(
    title: str, metrics: Sequence[list[Any]], period_s: int = _PERIOD_S, stacked: bool = False
) -> dict[str, Any]:
    properties = {
        "title": title,
        "view": "timeSeries",
        "stacked": stacked,
        "region": "${region}",
        "period": period_s,
        "metrics": [*metrics],
    }
    return {"type": "metric", "properties": properties}


def _place(widget: dict[str, Any], x: int, y: int) -> dict[str, Any]:
    return {"x": x, "y": y, "width": _WIDGET_WIDTH, "height": _WIDGET_HEIGHT, **widget}


def _search(metric: Metric, statistic: str, labels: Sequence[str] | None = None) -> list[Any]:
    """Search expression for a metric's series in the function's log lines."""
    names = ["service.name", *(metric.labels if labels is None else labels)]
    schema = ",".join(["Kiln", *(f'"{name}"' for name in names)])
    terms = f'MetricName="{metric.name}" "service.name"="${{service_name}}"'
    return _expression(f"SEARCH('{{{schema}}} {terms}', '{statistic}')")


def _anywhere(metric: Metric) -> list[Any]:
    """Search expression for a metric's series, whatever their dimensions."""
    return _expression(f"SEARCH('Namespace=\"Kiln\" MetricName=\"{metric.name}\"', 'Maximum')")


def _by_version(name: str, statistic: str) -> list[Any]:
    terms = f'MetricName="{name}" FunctionName="${{function_name}}"'
    return _expression(f"SEARCH('{{AWS/Lambda,{_VERSIONS}}} {terms}', '{statistic}')")


def _expression(text: str) -> list[Any]:
    return [{"expression": text, "label": ""}]
