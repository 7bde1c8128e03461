"""Live quality as tables, as JSON, and as the summary for the registry."""

import math
import time
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from ml.live.estimate import Interval
from ml.live.labelled import LabelledAccuracy
from ml.live.quality import Quality, Window
from ml.registry.live_summary import Share, Summary

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
