"""The CloudWatch dashboard as a template for the Terraform module.

Unlike alarms, widgets may search for all series of a metric by their dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from infra.observability.catalogue import Catalogue, Metric

_WIDTH, _HEIGHT, _ACROSS = 8, 6, 3  # of CloudWatch's 24 columns
_PERIOD_S = 300
_FUNCTION = {"FunctionName": "${function_name}"}
_VERSIONS = "FunctionName,Resource,ExecutedVersion"


def body(catalogue: Catalogue) -> dict[str, Any]:
    """The dashboard with placeholders such as `${region}` and `${function_name}`."""
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
            x, y = index % _ACROSS * _WIDTH, top + index // _ACROSS * _HEIGHT
            widgets.append(_place(widget, x, y))
        top += -(-len(found) // _ACROSS) * _HEIGHT
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
    return {"x": x, "y": y, "width": _WIDTH, "height": _HEIGHT, **widget}


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
