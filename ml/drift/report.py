"""What a comparison says, for people (a table, a page, plots) and for tools (JSON)."""

import html
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ml.drift.figures import distributions, statistics
from ml.drift.observed import listed
from ml.files import write_whole
from serve.contract.artifact import ArtifactMetadata
from serve.contract.drift import Counts, DriftReport, Limits, Statistic
from tools.figures import to_png, to_svg

_TEMPLATE = Path(__file__).parent / "page.html"
_KINDS = {"psi": "PSI", "ks": "KS"}
_STYLES = {"drift": "bold red", "no drift": "green", "too little evidence": "yellow"}


@dataclass(frozen=True)
class Comparison:
    """A window compared with the reference of a model, and what it was made of."""

    metadata: ArtifactMetadata
    source: str
    window: Counts
    report: DriftReport
    limits: Limits
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
    """One row a statistic, those that drifted in red; then the verdict in a sentence."""
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
            cells = (_KINDS[s.kind], f"{s.value:.3f}", f"{s.threshold:.3f}", _chance(s.p_value))
            table.add_row(s.signal, *cells, verdict, style=style)
        console.print(table)
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
        "distributions": _inline(distributions_svg),
        "statistics": _inline(figure) if figure else "<p>None: too few images.</p>",
        "rows": "".join(_row(s) for s in report.statistics),
        "limits": html.escape(_explained(comparison)),
        "problems": _problems(comparison.problems),
    }
    head, *pieces = _TEMPLATE.read_text(encoding="utf-8").split("{{")
    return head + "".join(
        parts[name.strip()] + rest for name, rest in (piece.split("}}", 1) for piece in pieces)
    )


def _row(s: Statistic) -> str:
    cells = [s.signal.replace("_", " "), _KINDS[s.kind], f"{s.images:,}", f"{s.value:.4f}"]
    cells += [f"{s.threshold:.4f}", _chance(s.p_value), "drift" if s.drifted else "–"]
    style = ' class="drift"' if s.drifted else ""
    return f"<tr{style}>{''.join(f'<td>{html.escape(cell)}</td>' for cell in cells)}</tr>"


def _explained(comparison: Comparison) -> str:
    limits, images = comparison.limits, comparison.metadata.drift_reference.images
    return (
        f"A threshold is what chance exceeds in at most {limits.false_alarm_rate:.2%} of windows "
        f"without drift, all statistics together, and no less than PSI {limits.psi:g} and "
        f"KS {limits.ks:g}. The reference is of {images:,} images."
    )


def _problems(problems: Sequence[str]) -> str:
    if not problems:
        return ""
    items = "".join(f"<li>{html.escape(problem)}</li>" for problem in listed(problems, 50))
    return f"<section><h2>Left out</h2><ul>{items}</ul></section>"


def _inline(svg: str) -> str:
    return svg[svg.index("<svg") :]


def _chance(p: float) -> str:
    return f"{p:.3f}" if p >= 0.001 else f"{p:.0e}" if p > 1e-99 else "0"
