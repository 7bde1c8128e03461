"""Results of the behavioural checks: a table, JSON, and a page with images."""

import html
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from rich.text import Text

from common.figures import fill
from common.files import write_whole
from common.model.artifact import ArtifactMetadata
from ml.artifact.evaluation import Labelled
from ml.behaviour.checks import Check
from ml.data.duplicates import Duplicates
from ml.report.plots import data_uri

_TEMPLATE = Path(__file__).parent / "page.html"
_SHOWN = 24  # pairs of duplicates


@dataclass(frozen=True)
class DataFacts:
    """Facts about the dataset: images per class, duplicates."""

    classes: tuple[str, ...]
    train: Labelled
    test: Labelled
    train_counts: tuple[int, ...]
    test_counts: tuple[int, ...]
    duplicates: Duplicates

    @property
    def balanced(self) -> bool:
        """Whether every class has as many images as the others, in both parts."""
        return len({*self.train_counts}) == 1 == len({*self.test_counts})

    def as_dict(self) -> dict[str, object]:
        """The facts as JSON-ready values."""
        return {
            "train_counts": dict(zip(self.classes, self.train_counts, strict=True)),
            "test_counts": dict(zip(self.classes, self.test_counts, strict=True)),
            "balanced": self.balanced,
            "exact_duplicates": self.duplicates.exact,
            "near_duplicates": len(self.duplicates.near),
            "near_duplicate_share": self.duplicates.share,
            "search_ms": round(self.duplicates.elapsed_ms, 1),
            "pairs": [asdict(pair) for pair in self.duplicates.near],
        }


def print_checks(metadata: ArtifactMetadata, checks: Sequence[Check], console: Console) -> None:
    """Prints one row per check, failures in red."""
    title = f"{metadata.name} {metadata.version[:12]}"
    table = Table(title=title, title_justify="left")
    for name in ("check", "value", "limit", ""):
        table.add_column(name, justify="right" if name in ("value", "limit") else "left")
    table.add_column("what it measures", overflow="fold")
    for check in checks:
        verdict = Text("passed", "green") if check.passed else Text("failed", "bold red")
        sign = "≥" if check.at_least else "≤"
        limit = f"{sign} {_shown(check, check.limit)}"
        table.add_row(check.name, _shown(check, check.value), limit, verdict, sentence(check))
    console.print(table, markup=False)


def print_data(facts: DataFacts, console: Console) -> None:
    """A few lines on balance and duplicates."""
    found = facts.duplicates
    for part, counts in (("train", facts.train_counts), ("test", facts.test_counts)):
        total, low, high = sum(counts), min(counts), max(counts)
        each = f"{low:,}" if low == high else f"{low:,} to {high:,}"
        console.print(f"{part}: {total:,} images, {each} per class", highlight=False)
    wrong = sum(not pair.same_label for pair in found.near)
    mirrored = sum(pair.mirrored for pair in found.near)
    console.print(
        f"duplicates: {found.exact} of {found.test_images:,} test images are exact copies of "
        f"training images, {len(found.near)} ({found.share:.1%}) near copies ({mirrored} "
        f"mirrored, {wrong} with another label); searched in {found.elapsed_ms:,.0f} ms",
        highlight=False,
    )


def sentence(check: Check) -> str:
    """What a check measured, with its parts."""
    if not check.details:
        return check.meaning
    worst = sorted(check.details.items(), key=lambda item: item[1], reverse=not check.at_least)
    parts = ", ".join(f"{name} {value:.1%}" for name, value in worst[:4])
    return f"{check.meaning} ({parts})"


def write_findings(
    metadata: ArtifactMetadata, checks: Sequence[Check], facts: DataFacts | None, folder: Path
) -> list[Path]:
    """`behaviour.json` and the self-contained `behaviour.html`."""
    found = {
        "model": metadata.name,
        "model_version": metadata.version,
        "passed": all(check.passed for check in checks),
        "checks": [check.as_dict() for check in checks],
        "data": facts.as_dict() if facts else None,
    }
    write_whole(folder / "behaviour.json", json.dumps(found, indent=2) + "\n")
    write_whole(folder / "behaviour.html", _page(metadata, checks, facts))
    return [folder / "behaviour.json", folder / "behaviour.html"]


def _shown(check: Check, value: float) -> str:
    return f"{value:.3f}" if "error" in check.name else f"{value:.1%}"


def _page(metadata: ArtifactMetadata, checks: Sequence[Check], facts: DataFacts | None) -> str:
    failed = sum(not check.passed for check in checks)
    rows = []
    for check in checks:
        sign, kind = "≥" if check.at_least else "≤", "passed" if check.passed else "failed"
        cells = [check.name, _shown(check, check.value), f"{sign} {_shown(check, check.limit)}"]
        cells += [kind, sentence(check)]
        inside = "".join(f"<td>{html.escape(cell)}</td>" for cell in cells)
        rows.append(f'<tr class="{kind}">{inside}</tr>')
    parts = {
        "model": html.escape(f"{metadata.name} {metadata.version[:12]}"),
        "kind": "failed" if failed else "passed",
        "verdict": f"{failed} of {len(checks)} failed" if failed else f"{len(checks)} passed",
        "rows": "".join(rows),
        "data": _data(facts) if facts else "",
    }
    return fill(_TEMPLATE, parts)


def _data(facts: DataFacts) -> str:
    found, figures = facts.duplicates, []
    for pair in found.near[:_SHOWN]:
        names = [html.escape(facts.classes[int(facts.test.labels[pair.test])])]
        names.append(html.escape(facts.classes[int(facts.train.labels[pair.train])]))
        note = f"{names[0]}" if pair.same_label else f"{names[0]} / <b>{names[1]}</b>"
        pictures = _picture(facts.test.images[pair.test]) + _picture(facts.train.images[pair.train])
        mirrored = ", mirrored" if pair.mirrored else ""
        caption = f"{note}<br>test {pair.test}, train {pair.train}{mirrored}"
        figures.append(f"<figure>{pictures}<figcaption>{caption}</figcaption></figure>")
    balance = "balanced" if facts.balanced else "not balanced"
    return (
        f"<section><h2>Data: {balance}; {found.exact} exact and {len(found.near)} near duplicates "
        f"({found.share:.1%} of the test images)</h2>"
        "<p>Each pair shows the test image on the left and the training image on the right, most "
        "similar first. A differing label is bold.</p>"
        f'<div class="pairs">{"".join(figures)}</div></section>'
    )


def _picture(image: NDArray[np.uint8]) -> str:
    return f'<img alt="" src="{data_uri(image)}">'
