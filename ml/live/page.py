"""The page of live quality: accuracy over time and by class, compared with the test images."""

import html
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from common.figures import (
    BLUE,
    GREEN,
    INK,
    MUTED,
    ORANGE,
    RED,
    STYLE,
    cards,
    fill,
    inline_svg,
    new_figure,
    to_png,
    to_svg,
)
from ml.live.estimate import Interval
from ml.live.quality import Quality, Window
from ml.live.report import moment, notes, shown

_TEMPLATE = Path(__file__).with_name("page.html")
_KINDS = {"fine": "good", "below the promise": "bad", "nothing to judge by": "wait"}
_CLASSES = 40  # maximum number drawn


def render(found: Sequence[Quality]) -> str:
    """The page as self-contained text."""
    live = found[0]
    return fill(
        _TEMPLATE,
        {
            "title": html.escape(f"{live.name} {live.version[:12]}"),
            "kind": _KINDS[live.says],
            "says": live.says,
            "versions": "".join(_version(one) for one in found),
        },
    )


def picture(found: Sequence[Quality]) -> bytes:
    """PNG for the latest version: over time above, by class below."""
    one = found[0]
    figure = new_figure(10, 4.2 + 0.19 * min(len(one.classes), _CLASSES))
    with matplotlib.rc_context(STYLE):
        above, below = figure.subplots(2, 1, height_ratios=(3.2, 1 + 0.19 * len(one.classes)))
        _draw_time(above, one)
        _draw_classes(below, one)
    return to_png(figure)


def over_time(one: Quality) -> Figure:
    """Estimated and labelled accuracy of each window, with their intervals."""
    figure = new_figure(10, 3.6)
    with matplotlib.rc_context(STYLE):
        _draw_time(figure.subplots(), one)
    return figure


def by_class(one: Quality) -> Figure:
    """Estimated and labelled recall and precision of each class."""
    figure = new_figure(10, 1.2 + 0.24 * min(len(one.classes), _CLASSES))
    with matplotlib.rc_context(STYLE):
        _draw_classes(figure.subplots(), one)
    return figure


def _draw_time(axes: Axes, one: Quality) -> None:
    middles = [_time((w.start + w.end) / 2) for w in one.windows]
    rates = [w.expected.accuracy for w in one.windows]
    axes.fill_between(  # steps, so that a single window is visible, too
        [_time(at) for w in one.windows for at in (w.start, w.end)],
        np.repeat([r.low for r in rates], 2),
        np.repeat([r.high for r in rates], 2),
        color=BLUE,
        alpha=0.18,
        linewidth=0,
    )
    axes.plot(
        middles, [r.value for r in rates], color=BLUE, marker="o", markersize=3, label="expected"
    )
    known = [
        (middle, w.labelled.accuracy)
        for middle, w in zip(middles, one.windows, strict=True)
        if w.labelled
    ]
    if known:
        _with_ends(axes, [at for at, _ in known], [rate for _, rate in known], ORANGE, "labelled")
    if one.test and one.promise is not None:
        axes.axhline(
            one.test.accuracy, color=GREEN, linewidth=1.2, linestyle="--", label="test images"
        )
        axes.axhline(one.promise, color=INK, linewidth=1, linestyle=":", label="promise")
    _mark_drift(axes, one.windows)
    axes.set(title="Accuracy over time (UTC), 95 % intervals")
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    locator = AutoDateLocator(minticks=3, maxticks=9)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))


def _mark_drift(axes: Axes, windows: Sequence[Window]) -> None:
    label = "drift"
    for window in windows:
        if window.drifted:
            start, end = (_time(at) for at in (window.start, window.end))
            axes.axvspan(start, end, color=RED, alpha=0.09, linewidth=0, label=label)
            label = "_" + label


def _with_ends(
    axes: Axes, at: Sequence[float], rates: Sequence[Interval], color: str, label: str
) -> None:
    values = np.array([rate.value for rate in rates])
    ends = np.abs(np.array([[r.low for r in rates], [r.high for r in rates]]) - values)
    axes.errorbar(at, values, ends, fmt="D", color=color, markersize=4, linewidth=1.3, label=label)


def _draw_classes(axes: Axes, one: Quality) -> None:
    names = one.classes[:_CLASSES]
    labelled = one.whole.labelled
    for k, _ in enumerate(names):
        rates = one.whole.expected.classes[k]
        _bar(axes, k - 0.22, rates.recall, BLUE)
        _bar(axes, k + 0.22, rates.precision, MUTED)
        if labelled:
            _bar(axes, k, labelled.recall[k], ORANGE, marker="D")
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.grid(visible=False, axis="y")
    axes.set(
        title="By class: expected recall (blue) and precision (grey), labelled recall (orange)"
    )


def _bar(axes: Axes, y: float, rate: Interval, color: str, marker: str = "o") -> None:
    if not np.isnan(rate.value):
        axes.plot([rate.low, rate.high], [y, y], color=color, linewidth=1.3, alpha=0.8)
        axes.plot(rate.value, y, marker=marker, color=color, markersize=4)


def _time(at: float) -> float:
    """Days since 1970, as in Matplotlib."""
    return datetime.fromtimestamp(at, UTC).timestamp() / 86400


def _version(one: Quality) -> str:
    whole = one.whole
    facts = {
        "test images": f"{one.test.accuracy:.2%}" if one.test else "unknown",
        "promise": f"{one.promise:.2%}" if one.promise is not None else "–",
        "expected": shown(whole.expected.accuracy),
        "labelled": shown(whole.labelled.accuracy) if whole.labelled else "no labels",
        "answers kept": f"{whole.rows:,} of about {whole.expected.answers:,.0f}",
        "labels": f"{whole.labelled.rows:,}" if whole.labelled else "0",
    }
    told = "".join(f"<li>{html.escape(note)}</li>" for note in notes(one))
    title = html.escape(f"{one.name} {one.version[:12]}")
    span = f"{moment(whole.start)} to {moment(whole.end)} UTC"
    return (
        f'<h2 class="version">{title} <small>{span}</small></h2>'
        f'<div class="cards">{cards(facts.items())}</div>'
        + (f'<section><ul class="notes">{told}</ul></section>' if told else "")
        + f"<section>{inline_svg(to_svg(over_time(one)))}</section>"
        + f"<section>{inline_svg(to_svg(by_class(one)))}</section>"
        + f"<section><h3>Windows</h3>{_windows(one)}</section>"
        + f"<section><h3>Classes</h3>{_classes(one)}</section>"
    )


def _windows(one: Quality) -> str:
    rows = [
        [
            moment(window.start),
            f"{window.rows:,}",
            shown(window.expected.accuracy),
            shown(window.labelled.accuracy) if window.labelled else "–",
            f"{window.labelled.rows:,}" if window.labelled else "–",
            ", ".join(window.drifted) or "–",
        ]
        for window in one.windows
    ]
    return _table(("From (UTC)", "Answers", "Expected", "Labelled", "Labels", "Drifted"), rows)


def _classes(one: Quality) -> str:
    labelled = one.whole.labelled
    rows = [
        [
            name,
            f"{one.whole.expected.classes[k].answered:.1%}",
            shown(one.whole.expected.classes[k].precision),
            shown(one.whole.expected.classes[k].recall),
            shown(labelled.precision[k]) if labelled else "–",
            shown(labelled.recall[k]) if labelled else "–",
        ]
        for k, name in enumerate(one.classes)
    ]
    heads = ("Class", "Answered", "Precision", "Recall", "Labelled precision", "Labelled recall")
    return _table(heads, rows)


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th scope=col>{html.escape(name)}</th>" for name in heads)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
