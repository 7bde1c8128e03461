"""The model card: its content, and its rendering as HTML and Markdown."""

import html
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from matplotlib.figure import Figure

from common.figures import fill, inline_svg, to_svg
from common.intervals import Interval
from common.model.artifact import ArtifactMetadata
from ml.artifact.evaluation import (
    Evaluation,
    accuracy_interval,
    macro_f1_interval,
    recall_intervals,
)
from ml.data.cifar10 import CLASSES
from ml.report import plots
from ml.report.page import origin

_TASK = "image-classification"
_HUB_CIFAR10 = "uoft-cs/cifar10"  # the dataset's name on the Hub


@dataclass(frozen=True)
class Small:
    """The model's INT8 sibling."""

    metadata: ArtifactMetadata
    evaluation: Evaluation
    size_bytes: int


@dataclass(frozen=True)
class Facts:
    metadata: ArtifactMetadata
    evaluation: Evaluation
    loss_interval: Interval
    parity: float  # max |difference| in probability between ONNX and PyTorch
    parameters: int
    size_bytes: int
    training: Mapping[str, Any]  # monitor and its best value, best_epoch, epochs, temperature
    rows: plots.Rows  # metrics by epoch, see `plots.learning_curves`
    config: str  # YAML
    reproduce: str  # commands
    small: Small | None = None
    license: str | None = None  # as named by the Hub: apache-2.0; None omits it


@dataclass(frozen=True)
class Table:
    """Text cells; the first column names the row, the others are right-aligned."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Listing:
    items: Sequence[str]


@dataclass(frozen=True)
class Code:
    """Verbatim commands or YAML; `folded` sections are collapsed."""

    text: str
    folded: bool = False


Block = str | Table | Listing | Code | Figure  # omitted in Markdown


@dataclass(frozen=True)
class Section:
    title: str
    blocks: Sequence[Block]


def sections(facts: Facts) -> list[Section]:
    """The card's sections, in reading order."""
    parts = [_use, _scores, _classes, _calibration, _sizes, _data, _limits, _origin, _again]
    return [part(facts) for part in parts]


def _use(facts: Facts) -> Section:
    m = facts.metadata
    height, width = m.input_size
    what, purpose = "images", ""
    if m.classes == CLASSES:
        what = "photographs"
        purpose = (
            " Intended for testing a pipeline from data to service, for teaching, and as a "
            "baseline for other networks."
        )
    return Section(
        "Intended use",
        [
            f"Classifies {what} of {width} × {height} pixels into {len(m.classes)} classes: "
            f"{', '.join(m.classes)}.{purpose}",
            "The file describes itself: input `images` is uint8 [N, H, W, 3] in RGB, outputs are "
            "`logits` and `probabilities`, float32 [N, K]; normalisation is inside the graph.",
            "Not for decisions about people or safety, and not for images of anything but the "
            "classes above: the model cannot answer that none of them applies.",
        ],
    )


def _scores(facts: Facts) -> Section:
    e = facts.evaluation
    rows = [
        ("Accuracy", f"{e.accuracy:.2%}", _percent(accuracy_interval(e))),
        ("Macro F1", f"{e.macro_f1:.4f}", _decimal(macro_f1_interval(e))),
        ("Loss (cross-entropy, nats)", f"{e.loss:.4f}", _decimal(facts.loss_interval)),
        ("Calibration error (15 bins)", f"{e.calibration_error:.4f}", "–"),
    ]
    return Section(
        "Test scores",
        [
            f"On {e.images:,} test images that training never saw, read once after it; no "
            "averaging over flips or shifts.",
            Table(("Score", "Value", "95 % interval"), rows),
            "Intervals tell of chance in the choice of test images alone: Wilson's for shares, "
            "the bootstrap for the F1. Another seed moves the accuracy too.",
        ],
    )


def _classes(facts: Facts) -> Section:
    e = facts.evaluation
    rows, intervals = [], recall_intervals(e)
    for k in sorted(range(len(e.classes)), key=lambda k: e.f1[k]):
        mistaken = [0 if other == k else count for other, count in enumerate(e.confusion[k])]
        rival = max(range(len(mistaken)), key=mistaken.__getitem__)
        often = f"{e.classes[rival]} ({mistaken[rival]})" if mistaken[rival] else "–"
        interval = _percent(intervals[k])
        shares = (f"{e.precision[k]:.1%}", f"{e.recall[k]:.1%}", interval, f"{e.f1[k]:.3f}")
        rows.append((e.classes[k], *shares, f"{e.support[k]:,}", often))
    head = ("Class", "Precision", "Recall", "95 %", "F1", "Images", "Most often taken for")
    return Section("Per class, worst first", [Table(head, rows)])


def _calibration(facts: Facts) -> Section:
    e, temperature = facts.evaluation, facts.training.get("temperature")
    confidence = sum(n * c for n, c in zip(e.confidence_histogram, e.bin_confidence, strict=True))
    said = f"It is {confidence / e.images:.1%} sure on average and right in {e.accuracy:.1%}. "
    how = (
        f"The logits' scale was set on the validation images (temperature {temperature:.3f})."
        if temperature
        else "The logits are as training left them."
    )
    return Section("Calibration", [said + how, plots.reliability(e)])


def _sizes(facts: Facts) -> Section:
    head, small = ("", "fp32", "INT8"), facts.small
    rows = [
        ("Bytes", f"{facts.size_bytes:,}", f"{small.size_bytes:,}" if small else "–"),
        (
            "Test accuracy",
            f"{facts.evaluation.accuracy:.2%}",
            f"{small.evaluation.accuracy:.2%}" if small else "–",
        ),
        ("Version", facts.metadata.version[:12], small.metadata.version[:12] if small else "–"),
    ]
    return Section(
        "Files",
        [
            f"{facts.parameters:,} parameters. ONNX and PyTorch agree within {facts.parity:.1e} in "
            "every probability of the whole test set and at batches of 1, 2, 7 and 100 (refused "
            "above 1e-4); an INT8 file is refused if it loses more than 0.3 points of accuracy.",
            Table(head, rows),
        ],
    )


_CIFAR10 = (
    "CIFAR-10 (Krizhevsky 2009): 60,000 photographs of 32 × 32 pixels collected from the web, "
    "6,000 of each class; 50,000 to learn from, of which the validation images are set aside, and "
    "10,000 to test with. Near-duplicates between the two are known (Barz and Denzler 2020, "
    "arXiv:1902.00423: 3.3 % of the test images), so scores flatter every model a little."
)


def _data(facts: Facts) -> Section:
    classes = facts.metadata.classes
    return Section(
        "Data",
        [
            _CIFAR10
            if classes == CLASSES
            else f"Images of {len(classes)} classes; "
            f"{facts.evaluation.images:,} of them to test with.",
            f"Digest of the files: `{facts.metadata.dataset_digest}`",
        ],
    )


def _limits(facts: Facts) -> Section:
    e = facts.evaluation
    worst = min(range(len(e.classes)), key=lambda k: e.recall[k])
    of_the_web = (
        "Whatever the web of 2008 showed more of, in places, breeds and makes, it knows better."
    )
    return Section(
        "Limits",
        [
            Listing(
                (
                    f"Worst class: {e.classes[worst]}, recall {e.recall[worst]:.1%}.",
                    "Larger pictures are shrunk to the input size first; what is small in them is "
                    "lost.",
                    "Noise, blur, fog, strong compression and drawings lower the accuracy; "
                    "confidence need not fall with it. Watch drift in service.",
                    "Not tested against images made to deceive it.",
                    *([of_the_web] if facts.metadata.classes == CLASSES else []),
                )
            )
        ],
    )


def _origin(facts: Facts) -> Section:
    m, t = facts.metadata, facts.training
    best = f"best {t['monitor']} {t[t['monitor']]:.4f} after {t['best_epoch']}"
    rows = [
        *origin(m).items(),
        ("Training", f"{t['epochs']} epochs, {best}"),
        ("ONNX opset", str(m.opset)),
    ]
    blocks: list[Block] = [Table(("", "Provenance"), rows)]
    if facts.rows:
        blocks.append(plots.learning_curves(facts.rows))
    return Section("Origin", [*blocks, Code(facts.config, folded=True)])


def _again(facts: Facts) -> Section:
    return Section(
        "How to reproduce it",
        [
            Code(facts.reproduce),
            "The same type of CPU and number of threads give the same bytes; another gives "
            "equal scores within chance.",
        ],
    )


def _percent(interval: Interval) -> str:
    return f"{interval.low * 100:.2f} – {interval.high * 100:.2f}%"


def _decimal(interval: Interval) -> str:
    return f"{interval.low:.4f} – {interval.high:.4f}"


_TEMPLATE = Path(__file__).with_name("model_card.html")


def to_html(facts: Facts) -> str:
    """Renders the card as a self-contained HTML file; equal facts give equal text."""
    name = html.escape(facts.metadata.name)
    body = "".join(_section_to_html(section) for section in sections(facts))
    return fill(_TEMPLATE, {"title": name, "body": body})


def front_matter(facts: Facts) -> dict[str, Any]:
    """Metadata for the Hugging Face Hub at the top of a card: search, and the table of results.

    Source: https://github.com/huggingface/hub-docs/blob/main/modelcard.md
    """
    m, e = facts.metadata, facts.evaluation
    is_cifar10 = m.classes == CLASSES
    dataset = {
        "type": _HUB_CIFAR10 if is_cifar10 else "image-classification",
        "name": "CIFAR-10" if is_cifar10 else f"images of {len(m.classes)} classes",
        "split": "test",
        "args": {"digest": m.dataset_digest},
    }
    metrics: tuple[tuple[str, str, float, dict[str, str]], ...] = (
        ("accuracy", "Accuracy", e.accuracy, {}),
        ("f1", "Macro F1", e.macro_f1, {"average": "macro"}),
        ("loss", "Cross-entropy, nats", e.loss, {}),
        ("expected_calibration_error", "Calibration error, 15 bins", e.calibration_error, {}),
    )
    results = [
        {"type": kind, "name": name, "value": round(value, 6), **({"args": args} if args else {})}
        for kind, name, value, args in metrics
    ]
    task = {"type": _TASK, "name": "Image classification"}
    return {
        **({"license": facts.license} if facts.license else {}),
        "library_name": "onnx",
        "pipeline_tag": _TASK,
        "tags": [_TASK, "onnx", "kiln"],
        **({"datasets": [_HUB_CIFAR10]} if is_cifar10 else {}),
        "metrics": ["accuracy", "f1"],
        "model-index": [
            {"name": m.name, "results": [{"task": task, "dataset": dataset, "metrics": results}]}
        ],
    }


def to_markdown(facts: Facts) -> str:
    """Renders the card as Markdown, without figures, under the Hub's metadata."""
    head = yaml.safe_dump(front_matter(facts), sort_keys=False, allow_unicode=True)
    parts = [f"---\n{head}---", f"# Model card: {facts.metadata.name}"]
    for section in sections(facts):
        parts.append(f"## {section.title}")
        parts += [text for block in section.blocks if (text := _to_markdown(block))]
    return "\n\n".join(parts) + "\n"


def _section_to_html(section: Section) -> str:
    blocks = "".join(_to_html(block) for block in section.blocks)
    return f"<section><h2>{html.escape(section.title)}</h2>{blocks}</section>\n"


def _to_html(block: Block) -> str:
    match block:
        case Table(head, rows):
            first = "".join(f"<th scope=col>{html.escape(cell)}</th>" for cell in head)
            lines = (
                f"<tr><th scope=row>{html.escape(name)}</th>"
                + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells)
                + "</tr>"
                for name, *cells in rows
            )
            return f"<table><tr>{first}</tr>{''.join(lines)}</table>"
        case Listing(items):
            return "<ul>" + "".join(f"<li>{_prose(item)}</li>" for item in items) + "</ul>"
        case Code(text, folded):
            pre = f"<pre>{html.escape(text)}</pre>"
            title = "<summary>Resolved configuration</summary>"
            return f"<details>{title}{pre}</details>" if folded else pre
        case Figure():
            return f"<div class=figure>{inline_svg(to_svg(block))}</div>"
        case str():
            return f"<p>{_prose(block)}</p>"


def _prose(text: str) -> str:
    return re.sub("`([^`]+)`", r"<code>\1</code>", html.escape(text))


def _cell(text: str) -> str:
    """Text of a table's cell, in which class names may not end it or be taken for tags."""
    return text.replace("|", r"\|").replace("<", "&lt;")


def _to_markdown(block: Block) -> str:
    match block:
        case Table(head, rows):
            rule = ["---", *("---:" for _ in head[1:])]
            cells = (map(_cell, row) for row in (head, rule, *rows))
            return "\n".join(f"| {' | '.join(row)} |" for row in cells)
        case Listing(items):
            return "\n".join(f"- {item}" for item in items)
        case Code(text, folded):
            return "" if folded else f"```sh\n{text.strip()}\n```"
        case Figure():
            return ""
        case str():
            return block
