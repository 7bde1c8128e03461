"""Live quality as tables, as JSON, as the registry's summary, and as metrics.

The metrics are `kiln.model.accuracy.*`, over OTLP and to CloudWatch.
"""

import math
import os
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from ml.live.estimate import Interval, LabelledAccuracy
from ml.live.quality import Quality, Window
from ml.registry.explanation import Share, Summary

_STYLES = {"fine": "green", "below the promise": "bold red", "nothing to judge by": "yellow"}
_MOST_CLASSES = 20  # rows of a table


def print_quality(found: Quality, console: Console) -> None:
    """Prints the version overall, then by time and by class."""
    test = found.test
    promised = (
        f"test set {test.accuracy:.2%}, promise {found.promise:.2%}"
        if test and found.promise is not None
        else "test set unknown"
    )
    console.print(
        f"[bold]{escape(found.name)} {found.version[:12]}[/]  {promised}", highlight=False
    )
    table = _table("", "answers", "expected", "labels", "labelled", "drift")
    for window in (*found.windows, found.whole):
        last = window is found.whole
        if last:
            table.add_section()
        table.add_row(
            "all" if last else moment(window.start),
            f"{window.rows:,}",
            _against(window.expected.accuracy, found.promise),
            f"{window.labelled.rows:,}" if window.labelled else "",
            _against(window.labelled.accuracy, found.promise) if window.labelled else "",
            Text(", ".join(window.drifted), "red"),
        )
    console.print(table)
    _print_classes(found, console)
    for note in notes(found):
        console.print(note, style="yellow", markup=False, highlight=False, soft_wrap=True)
    console.print(Text(found.says, _STYLES[found.says]))


def _print_classes(found: Quality, console: Console) -> None:
    whole = found.whole
    table = _table("class", "answered", "precision", "recall", "labelled precision", "recall")
    for k, name in list(enumerate(found.classes))[:_MOST_CLASSES]:
        rates, labelled = whole.expected.classes[k], whole.labelled
        table.add_row(
            escape(name),
            f"{rates.answered:.1%}",
            shown(rates.precision),
            shown(rates.recall),
            shown(labelled.precision[k]) if labelled else "",
            shown(labelled.recall[k]) if labelled else "",
        )
    console.print(table)
    if len(found.classes) > _MOST_CLASSES:
        console.print(f"… and {len(found.classes) - _MOST_CLASSES} classes more: --json, --html")


def notes(found: Quality) -> list[str]:
    """Caveats about the figures."""
    texts = []
    if found.note:
        texts.append(
            f"Accuracy is estimated from the model's own confidence, which is too high on shifted "
            f"images: {found.note}"
        )
    if found.whole.drifted:
        texts.append(
            "Traffic has drifted from the test images, so the estimate is less certain than its "
            "interval says; rely on labels."
        )
    labelled = found.whole.labelled
    if labelled and labelled.chosen:
        texts.append(
            "Labellers chose which predictions to label, so these may not be representative."
        )
    if labelled and labelled.left_out:
        parts = ", ".join(f"{number} {why}" for why, number in labelled.left_out.items())
        texts.append(f"Labels left out: {parts}.")
    if found.unreadable:
        texts.append(f"Predictions left out because of their images: {found.unreadable}.")
    return texts


def shown(rate: Interval) -> str:
    """``91.2 % (90.1–92.3)``, or a dash if undefined."""
    if math.isnan(rate.value):
        return "–"
    return f"{100 * rate.value:.1f} % ({100 * rate.low:.1f}–{100 * rate.high:.1f})"


def moment(at: float) -> str:
    """``2026-11-30 09:00``, UTC."""
    return time.strftime("%Y-%m-%d %H:%M", time.gmtime(at))


def _against(rate: Interval, promise: float | None) -> Text:
    return Text(shown(rate), "red" if promise is not None and rate.high < promise else "")


def _table(*names: str) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in names:
        table.add_column(name, justify="left" if name in ("", "class", "drift") else "right")
    return table


def summarised(found: Quality, made: float) -> Summary:
    expected, labelled = found.whole.expected, found.whole.labelled
    return Summary(
        version=found.version,
        made=made,
        since=found.whole.start,
        until=found.whole.end,
        expected=_share(expected.accuracy, expected.rows),
        recalibrated=expected.recalibrated,
        labelled=_share(labelled.accuracy, labelled.rows) if labelled else None,
        chosen=bool(labelled and labelled.chosen),
        promise=found.promise,
        says=found.says,
        drifted=found.whole.drifted,
    )


def _share(rate: Interval, rows: int) -> Share:
    return Share(rate.value, rate.low, rate.high, rows)


def as_dict(found: Quality) -> dict[str, Any]:
    """All results as JSON-ready values; None for undefined rates."""
    return {
        "version": found.version,
        "name": found.name,
        "says": found.says,
        "test_accuracy": found.test.accuracy if found.test else None,
        "promise": found.promise,
        "classes": list(found.classes),
        "notes": notes(found),
        "all": _window(found.whole),
        "windows": [_window(window) for window in found.windows],
    }


def _window(window: Window) -> dict[str, Any]:
    expected = window.expected
    return {
        "start": window.start,
        "end": window.end,
        "rows": window.rows,
        "answers": expected.answers,
        "expected": _rate(expected.accuracy),
        "recalibrated": expected.recalibrated,
        "classes": [
            {
                "answered": rates.answered,
                "expected": rates.expected,
                "precision": _rate(rates.precision),
                "recall": _rate(rates.recall),
            }
            for rates in expected.classes
        ],
        "confusion": [list(row) for row in expected.confusion],
        "labelled": _labelled(window.labelled),
        "drifted": list(window.drifted),
    }


def _labelled(found: LabelledAccuracy | None) -> dict[str, Any] | None:
    if found is None:
        return None
    return {
        "rows": found.rows,
        "chosen": found.chosen,
        "left_out": dict(found.left_out),
        "accuracy": _rate(found.accuracy),
        "precision": [_rate(rate) for rate in found.precision],
        "recall": [_rate(rate) for rate in found.recall],
    }


def _rate(rate: Interval) -> dict[str, float | None]:
    value = None if math.isnan(rate.value) else rate.value
    return {"value": value, "low": rate.low, "high": rate.high}


NAMESPACE = "Kiln"
_PREFIX = "kiln.model.accuracy."
_TIMEOUT_S = 5
_MOST_VALUES = 1000  # CloudWatch's limit of values per request


class Gauge(NamedTuple):
    """A gauge of the catalogue, infra/observability/catalogue.toml."""

    name: str
    unit: str
    value: float
    attributes: dict[str, str]


def gauges(found: Sequence[Quality]) -> list[Gauge]:
    """Gauges of each version, and the headroom of the first, the latest."""
    values = [gauge for one in found for gauge in _of_version(one)]
    if found and (headroom := found[0].headroom) is not None:
        values.append(Gauge(f"{_PREFIX}headroom", "1", headroom, {}))
    return values


def _of_version(one: Quality) -> list[Gauge]:
    version = {"kiln.model.version": one.version}
    values = _of_rate("expected", one.whole.expected.accuracy, one.whole.rows, version)
    if labelled := one.whole.labelled:
        values += _of_rate("labelled", labelled.accuracy, labelled.rows, version)
    if one.promise is not None:
        values.append(Gauge(f"{_PREFIX}promised", "1", one.promise, version))
    return values


def _of_rate(kind: str, rate: Interval, rows: int, version: dict[str, str]) -> list[Gauge]:
    bounds = {"value": rate.value, "low": rate.low, "high": rate.high}
    values = [
        Gauge(f"{_PREFIX}{kind}", "1", value, version | {"bound": bound})
        for bound, value in bounds.items()
    ]
    return [*values, Gauge(f"{_PREFIX}rows", "{answer}", float(rows), version | {"kind": kind})]


def check_endpoint() -> None:
    """Checks that the endpoint is set.

    Raises:
        ValueError: OTEL_EXPORTER_OTLP_ENDPOINT is not set.
    """
    if not os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT"):
        raise ValueError("--otlp needs OTEL_EXPORTER_OTLP_ENDPOINT, as http://127.0.0.1:4318")


def export(found: Sequence[Quality]) -> bool:
    """Exports to OTEL_EXPORTER_OTLP_ENDPOINT; False if that failed."""
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader, MetricExportResult
    from opentelemetry.sdk.resources import Resource

    reader = InMemoryMetricReader()  # one that exports by itself does not say whether it could
    resource = Resource.create({"service.name": _service()})
    provider = MeterProvider(metric_readers=[reader], resource=resource)
    meter = provider.get_meter("kiln.live")
    instruments: dict[str, Any] = {}
    for one in gauges(found):
        if one.name not in instruments:
            instruments[one.name] = meter.create_gauge(one.name, one.unit)
        instruments[one.name].set(one.value, one.attributes)
    data = reader.get_metrics_data()
    provider.shutdown()
    exporter = OTLPMetricExporter(timeout=_TIMEOUT_S)
    try:
        return data is None or exporter.export(data) is MetricExportResult.SUCCESS
    finally:
        exporter.shutdown()


def put(found: Sequence[Quality], client: Any) -> None:
    """Puts them into CloudWatch, for the alarm on the headroom."""
    data = cloudwatch_data(found)
    for start in range(0, len(data), _MOST_VALUES):
        client.put_metric_data(Namespace=NAMESPACE, MetricData=data[start : start + _MOST_VALUES])


def cloudwatch_data(found: Sequence[Quality]) -> list[dict[str, Any]]:
    """The gauges in CloudWatch's form; service.name is a dimension, as in the service's metrics."""
    return [
        {
            "MetricName": one.name,
            "Value": one.value,
            "Dimensions": [
                {"Name": name, "Value": value}
                for name, value in {"service.name": _service(), **one.attributes}.items()
            ],
        }
        for one in gauges(found)
    ]


def _service() -> str:
    return os.environ.get("OTEL_SERVICE_NAME", "kiln")
