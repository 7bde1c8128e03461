"""The drift report: a table, a page with plots, and JSON."""

import html
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from rich.console import Console
from rich.table import Table
from rich.text import Text

from common.figures import (
    BLUE,
    INK,
    MUTED,
    RED,
    STYLE,
    fill,
    inline_svg,
    new_figure,
    to_png,
    to_svg,
)
from common.files import write_whole
from common.model.artifact import ArtifactMetadata, DriftReference
from common.model.drift import CLASSES, Counts, DriftLimits, DriftReport, Statistic
from ml.drift.observed import listed

_COLUMNS = 5
_TEMPLATE = Path(__file__).parent / "page.html"
_STYLES = {"drift": "bold red", "no drift": "green", "too little evidence": "yellow"}


def distributions(
    reference: DriftReference, window: Counts, report: DriftReport, classes: Sequence[str]
) -> Figure:
    """Share of the window's images in each bin of the reference, whose bins have equal shares.

    Without drift the bars match the reference's outline; drifted signals are red.
    """
    panels = [(CLASSES, window.classes, reference.class_priors, tuple(classes))]
    for signal in reference.signals:
        ends = (f"< {signal.edges[0]:.3g}", f"≥ {signal.edges[-1]:.3g}")
        panels.append((signal.name, window.signals[signal.name], signal.shares, ends))
    lines = -(-len(panels) // _COLUMNS)
    figure = new_figure(2.7 * _COLUMNS, 2.5 * lines)
    with matplotlib.rc_context(STYLE | {"axes.grid": False}):
        axes = figure.subplots(lines, _COLUMNS, squeeze=False).flat
        for axis, (name, counts, shares, ticks) in zip(axes, panels, strict=False):
            statistics = [s for s in report.statistics if s.signal == name]
            _panel(axis, name, counts, shares, ticks, statistics)
        for axis in list(axes):
            axis.set_axis_off()
    return figure


def statistics(report: DriftReport) -> Figure:
    """Every statistic relative to its threshold: values beyond the line indicate drift."""
    rows = sorted(report.statistics, key=lambda s: s.value / s.threshold)
    figure = new_figure(7.5, 0.9 + 0.27 * max(1, len(rows)))
    with matplotlib.rc_context(STYLE):
        axes = figure.subplots()
        ratios = [max(s.value / s.threshold, 1e-3) for s in rows]
        colors = [RED if s.drifted else BLUE for s in rows]
        axes.barh(range(len(rows)), ratios, 0.62, color=colors)
        axes.axvline(1, color=INK, linewidth=1)
        axes.set_yticks(range(len(rows)), [f"{s.signal}  {s.kind.upper()}" for s in rows])
        axes.set(xlabel="value / threshold", title="Statistics relative to their thresholds")
        axes.set_xlim(0, max(1.25, *ratios) * 1.05)
        axes.grid(visible=False, axis="y")
    return figure


def _panel(
    axes: Axes,
    name: str,
    counts: Sequence[int],
    shares: Sequence[float],
    ticks: Sequence[str],
    statistics: Sequence[Statistic],
) -> None:
    drifted = any(s.drifted for s in statistics)
    place = np.arange(len(shares))
    if total := sum(counts):
        color = RED if drifted else BLUE
        axes.bar(place, np.array(counts) / total, 0.86, color=color, alpha=0.8)
    else:
        text = "not measured"
        axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", color=MUTED)
    axes.step(np.arange(len(shares) + 1) - 0.5, [*shares, shares[-1]], where="post", color=INK)
    values = ", ".join(f"{s.kind.upper()} {s.value:.2g}" for s in statistics)
    axes.set_title(f"{name.replace('_', ' ')}\n{values or '–'}", fontsize=9)
    axes.title.set_color(RED if drifted else INK)
    if len(ticks) == len(shares):
        axes.set_xticks(place, ticks, rotation=60, ha="right", fontsize=7)
    else:
        axes.set_xticks([0, len(shares) - 1], ticks, fontsize=8)
        left, right = axes.get_xticklabels()
        left.set_horizontalalignment("left")
        right.set_horizontalalignment("right")
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.tick_params(axis="y", labelsize=7)


@dataclass(frozen=True)
class Comparison:
    """A window compared with the reference of a model, and what it was made of."""

    metadata: ArtifactMetadata
    source: str
    window: Counts
    report: DriftReport
    limits: DriftLimits
    problems: Sequence[str]

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready: verdict first, then evidence."""
        return {
            "verdict": self.report.verdict,
            "drifted": list(self.report.drifted),
            "source": self.source,
            "images": self.report.images,
            "model": self.metadata.name,
            "model_version": self.metadata.version,
            "reference_images": self.metadata.drift_reference.images,
            "limits": asdict(self.limits),
            "statistics": [
                asdict(s) | {"drifted": s.drifted} for s in self.report.statistics
            ],
            "counts": asdict(self.window),
            "problems": list(self.problems),
        }  # fmt: skip


def print_comparison(comparison: Comparison, console: Console) -> None:
    """Prints one row per statistic, drifted ones in red, then the verdict."""
    report = comparison.report
    if report.statistics:
        table = Table(title=f"{comparison.source}: {report.images:,} images", title_justify="left")
        table.add_column("signal")
        table.add_column("statistic")
        for name in ("value", "threshold", "p"):
            table.add_column(name, justify="right")
        table.add_column("verdict")
        for s in report.statistics:
            verdict = Text("drift", "bold red") if s.drifted else Text("–", "dim")
            style = "red" if s.drifted else ""
            cells = (s.kind.upper(), f"{s.value:.3f}", f"{s.threshold:.3f}", _chance(s.p_value))
            table.add_row(s.signal, *cells, verdict, style=style)
        console.print(table, markup=False)
    for problem in listed(comparison.problems):
        console.print(f"left out: {problem}", style="yellow", markup=False, highlight=False)
    console.print(Text(_sentence(comparison), _STYLES[report.verdict]))


def write_comparison(comparison: Comparison, folder: Path) -> list[Path]:
    """`drift.json`, `drift.png` and the self-contained `drift.html`."""
    metadata = comparison.metadata
    figure = distributions(
        metadata.drift_reference, comparison.window, comparison.report, metadata.classes
    )
    files: dict[str, bytes | str] = {
        "drift.json": json.dumps(comparison.as_dict(), indent=2) + "\n",
        "drift.png": to_png(figure),
        "drift.html": _page(comparison, to_svg(figure)),
    }
    for name, data in files.items():
        write_whole(folder / name, data)
    return [folder / name for name in files]


def _sentence(comparison: Comparison) -> str:
    report, limits = comparison.report, comparison.limits
    if report.verdict == "too little evidence":
        return (
            f"Too little evidence: {report.images} images, expected at least "
            f"{limits.fewest_images}."
        )
    if report.verdict == "drift":
        return f"Drift in {', '.join(report.drifted)} ({report.images:,} images)."
    return f"No drift in {len(report.statistics)} statistics ({report.images:,} images)."


def _page(comparison: Comparison, distributions_svg: str) -> str:
    report, metadata = comparison.report, comparison.metadata
    figure = to_svg(statistics(report)) if report.statistics else ""
    kind = {"drift": "drift", "no drift": "none", "too little evidence": "little"}[report.verdict]
    parts = {
        "model": html.escape(f"{metadata.name} {metadata.version[:12]}"),
        "kind": kind,
        "verdict": report.verdict,
        "summary": html.escape(f"{comparison.source}. {_sentence(comparison)}"),
        "distributions": inline_svg(distributions_svg),
        "statistics": inline_svg(figure)
        if figure
        else "<p>There are too few images for statistics.</p>",
        "rows": "".join(_row(s) for s in report.statistics),
        "limits": html.escape(_explained(comparison)),
        "problems": _problems(comparison.problems),
    }
    return fill(_TEMPLATE, parts)


def _row(s: Statistic) -> str:
    cells = [s.signal.replace("_", " "), s.kind.upper(), f"{s.images:,}", f"{s.value:.4f}"]
    cells += [f"{s.threshold:.4f}", _chance(s.p_value), "drift" if s.drifted else "–"]
    style = ' class="drift"' if s.drifted else ""
    return f"<tr{style}>{''.join(f'<td>{html.escape(cell)}</td>' for cell in cells)}</tr>"


def _explained(comparison: Comparison) -> str:
    limits, images = comparison.limits, comparison.metadata.drift_reference.images
    return (
        f"All thresholds together are exceeded by chance in at most "
        f"{limits.false_alarm_rate:.2%} of windows without drift; none is below "
        f"PSI {limits.psi:g} or KS {limits.ks:g}. The reference has {images:,} images."
    )


def _problems(problems: Sequence[str]) -> str:
    if not problems:
        return ""
    items = "".join(f"<li>{html.escape(problem)}</li>" for problem in listed(problems, 50))
    return f"<section><h2>Left out</h2><ul>{items}</ul></section>"


def _chance(p: float) -> str:
    return f"{p:.3f}" if p >= 0.001 else f"{p:.0e}" if p > 1e-99 else "0"
