"""The page of several runs: their metrics, curves, and differences."""

import html
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from common.figures import (
    COLORS,
    MUTED,
    STYLE,
    cards,
    fill,
    inline_svg,
    new_figure,
    to_svg,
    whole_ticks,
)
from common.terminal import duration, plural
from ml.runs.comparison import Record, changed, shown, shown_score

_TEMPLATE = Path(__file__).with_name("comparison.html")
_DASHES = ("-", "--", ":")  # line styles, once the colours are used up
_ORDER = ("val/accuracy", "val/loss", "val/macro_f1", "train/accuracy", "train/loss")


def render(records: Sequence[Record], show: Sequence[str] = ()) -> str:
    """The page as self-contained text."""
    return fill(
        _TEMPLATE,
        {
            "title": plural(len(records), "run"),
            "cards": _cards(records),
            "runs": _runs(records, show),
            "curves": _curves(records),
            "changed": _changed(records),
        },
    )


def curves(records: Sequence[Record], metric: str) -> Figure:
    """Plots a metric by epoch, one line per run."""
    figure = new_figure(4.6, 2.7)
    with matplotlib.rc_context(STYLE):
        axes = figure.subplots()
        for index, record in enumerate(records):
            points = [
                (row["epoch"], row[metric])
                for row in record.rows
                if "epoch" in row and math.isfinite(row.get(metric, math.nan))
            ]
            if points:
                color, dash = _line(index)
                marker = "o" if len(points) < 2 else ""
                axes.plot(*zip(*points, strict=True), color=color, linestyle=dash, marker=marker)
        axes.set(title=metric, xlabel="epoch")
        whole_ticks(axes.xaxis)
    return figure


def _line(index: int) -> tuple[str, str]:
    """Colour and dash of a run's line; grey when the colours are used up."""
    round_, place = divmod(index, len(COLORS))
    return (COLORS[place], _DASHES[round_]) if round_ < len(_DASHES) else (MUTED, "-")


def _cards(records: Sequence[Record]) -> str:
    states = [record.state for record in records]
    facts = {state: str(states.count(state)) for state in dict.fromkeys(sorted(states))}
    for name in ("test/accuracy", "val/accuracy"):
        if known := [record for record in records if name in record.metrics]:
            best = max(known, key=lambda record: record.metrics[name])
            facts[f"best {name}"] = shown_score(best.metrics[name])
    return cards(facts.items())


def _runs(records: Sequence[Record], show: Sequence[str]) -> str:
    metrics = [
        name
        for name in ("test/accuracy", "test/macro_f1", "test/loss", "test/calibration_error")
        if any(name in record.metrics for record in records)
    ]
    monitored = list(dict.fromkeys(record.monitored for record in records))
    columns = [*metrics, *monitored, *show]
    heads = ("Run", "State", "Started (UTC)", "Epochs", "Best epoch", *columns, "Training")
    rows = []
    for index, record in enumerate(records):
        seconds = record.metrics.get("training_s", math.nan)
        started = f"{record.started:%Y-%m-%d %H:%M}" if record.started else "–"
        cells = (
            _cell(started),
            _cell(record.epochs, str(len(record.rows))),
            _cell(shown(record.metrics.get("best_epoch"))),
            *(_cell(record.text(name), _sortable(record.value(name))) for name in columns),
            _cell("–" if math.isnan(seconds) else duration(seconds), _sortable(seconds)),
        )
        state = f'<td class="state {record.state}">{record.state}</td>'
        problem = f' title="{html.escape(record.problem)}"' if record.problem else ""
        name = html.escape(record.label)
        rows.append(
            f"<tr{problem}><th scope=row>{_swatch(index)}{name}</th>{state}{''.join(cells)}</tr>"
        )
    head = "".join(f"<th scope=col><button>{html.escape(name)}</button></th>" for name in heads)
    return (
        f'<table class="runs"><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table>'
    )


def _cell(text: str, order: str = "") -> str:
    hint = f' data-order="{html.escape(order)}"' if order else ""
    return f"<td{hint}>{html.escape(text)}</td>"


def _sortable(value: Any) -> str:
    return str(value) if isinstance(value, int | float) and math.isfinite(value) else ""


def _swatch(index: int) -> str:
    color, dash = _line(index)
    dashes = {"--": "5 3", ":": "2 2"}.get(dash, "none")
    return (
        f'<svg class="swatch" viewBox="0 0 22 8" aria-hidden="true"><line x1="0" y1="4" x2="22" '
        f'y2="4" stroke-width="3" stroke="{_variable(color)}" stroke-dasharray="{dashes}"/></svg>'
    )


def _variable(color: str) -> str:
    return f"var(--c{COLORS.index(color)})" if color in COLORS else "var(--muted)"


def _curves(records: Sequence[Record]) -> str:
    known = {name for record in records for row in record.rows for name in row if "/" in name}
    names = [name for name in _ORDER if name in known] + sorted(known - set(_ORDER))
    drawn = []
    for name in names:
        svg = inline_svg(to_svg(curves(records, name)))
        for color in COLORS:
            svg = svg.replace(color, _variable(color))
        drawn.append(f"<figure>{svg}</figure>")
    return "".join(drawn) or "<p>No run has finished an epoch.</p>"


def _changed(records: Sequence[Record]) -> str:
    differences = changed(records)
    if not differences:
        return "<p>All runs have the same configuration, code, packages and data.</p>"
    head = "".join(
        f"<th scope=col>{_swatch(index)}{html.escape(record.label)}</th>"
        for index, record in enumerate(records)
    )
    body = "".join(
        f"<tr><th scope=row>{html.escape(name)}</th>"
        + "".join(f"<td>{html.escape(shown(value))}</td>" for value in values)
        + "</tr>"
        for name, values in differences.items()
    )
    return f'<table class="changed"><tr><th scope=col>Value</th>{head}</tr>{body}</table>'
