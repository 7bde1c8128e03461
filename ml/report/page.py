"""A run's report: a single HTML file with plots and worst mistakes."""

import html
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from common.figures import cards, fill, inline_svg, to_png, to_svg
from common.files import write_whole
from common.model.artifact import ArtifactMetadata
from common.saliency import occluded, saliency
from common.terminal import plural
from ml.artifact.evaluation import Evaluation, Labelled, worst_mistakes
from ml.report import plots
from ml.runs.folder import RunFolder, read_rows

MISTAKES = 32
_MARK, _MARK_ALPHA = (255, 0, 150), 180
_NAME_BYTES = 80  # characters of a class in file names, which hold two and are limited to 255
_PAIRS = 50  # number of classes from which the matrix is omitted
_TEMPLATE = Path(__file__).with_name("page.html")


@dataclass(frozen=True)
class Run:
    name: str
    evaluation: Evaluation
    rows: plots.Rows  # one per epoch, see `plots.learning_curves`
    images: NDArray[np.uint8]  # (N, H, W, 3), RGB: the evaluated images
    labels: NDArray[np.integer[Any]]  # (N,)
    probabilities: NDArray[np.floating[Any]]  # (N, K)
    parameters: int
    size_bytes: int
    training_s: float
    config: str  # YAML
    provenance: Mapping[str, str]  # label -> value
    system: plots.Rows = ()  # samples of the machine, see `plots.machine`
    augmented: NDArray[np.uint8] | None = None  # (N, M, H, W, 3): see `plots.contact_sheet`
    looked_at: Mapping[int, NDArray[np.floating[Any]]] = field(default_factory=dict)  # by image
    _svgs: dict[str, str] = field(default_factory=dict, init=False, repr=False, compare=False)

    @cached_property
    def figures(self) -> dict[str, Figure]:
        """The figures by the names of their files."""
        return _figures(self, self.evaluation)

    def svg(self, name: str) -> str:
        """A figure as SVG, drawn once for its file and the page."""
        if name not in self._svgs:
            self._svgs[name] = to_svg(self.figures[name])
        return self._svgs[name]


def write_plots(run: Run, folder: Path) -> list[Path]:
    """Writes every figure as PNG and SVG; returns the paths, sorted by name.

    Names with glyphs that the PNG's font lacks appear only in the SVG.
    """
    classes = plots.in_glyphs(run.evaluation.classes)
    drawn = run.figures
    if classes != run.evaluation.classes:
        drawn = _figures(run, replace(run.evaluation, classes=classes))
    written = []
    for name, figure in drawn.items():
        for suffix, data in ((".png", to_png(figure)), (".svg", run.svg(name))):
            written.append(folder / (name + suffix))
            write_whole(written[-1], data)
    if run.augmented is not None:
        written.append(folder / "augmentation.png")
        write_whole(written[-1], plots.pixels_to_png(plots.contact_sheet(run.augmented)))
    return sorted(written)


def _figures(run: Run, evaluation: Evaluation) -> dict[str, Figure]:
    worst = worst_mistakes(run.probabilities, run.labels, MISTAKES)
    answers = run.images[worst], run.labels[worst], run.probabilities[worst]
    figures = {
        "calibration": plots.reliability(evaluation),
        "confusion_matrix": plots.confusion_matrix(evaluation),
        "learning_curves": plots.learning_curves(run.rows),
        "per_class": plots.per_class(evaluation),
        "worst_mistakes": plots.mistakes(*answers, evaluation.classes),
    }
    return figures | ({"machine": plots.machine(run.system)} if run.system else {})


def write_rate_test(run: RunFolder, found: Mapping[str, Any]) -> Path:
    """Plots the result of a learning-rate search; returns the path."""
    path = run.path / "learning_rate.png"
    write_whole(path, to_png(plots.rate_test(found["lr"], found["loss"], found["suggestion"])))
    return path


def write_mistakes(run: Run, folder: Path) -> list[Path]:
    """Writes the worst mistakes as image files named by the classes confused."""
    written = []
    worst = worst_mistakes(run.probabilities, run.labels, MISTAKES)
    for place, index in enumerate(worst, 1):
        probabilities = run.probabilities[index]
        guess = int(probabilities.argmax())
        label, taken_for = (
            _file_name(run.evaluation.classes[i]) for i in (run.labels[index], guess)
        )
        name = f"{place:02}_{label}_as_{taken_for}_{probabilities[guess]:.0%}.png"
        written.append(folder / name)
        write_whole(written[-1], plots.pixels_to_png(run.images[index]))
    return written


def write_report(run: Run, path: Path) -> None:
    """Writes the page; equal runs give equal bytes."""
    write_whole(path, render(run))


def render(run: Run) -> str:
    """The page as self-contained text."""
    parts = {
        "title": html.escape(run.name),
        "cards": _cards(run),
        "curves": inline_svg(run.svg("learning_curves")),
        "confusion": _confusion(run.evaluation),
        "calibration": inline_svg(run.svg("calibration")),
        "classes": _classes(run.evaluation),
        "mistakes": _mistakes(run),
        "augmentation": _augmentation(run.augmented),
        "machine": _machine(run),
        "provenance": _provenance(run.provenance),
        "config": html.escape(run.config),
    }
    return fill(_TEMPLATE, parts)


def _file_name(text: str) -> str:
    return re.sub(r"[^\w.-]+", "-", text).encode()[:_NAME_BYTES].decode(errors="ignore")


def _cards(run: Run) -> str:
    e = run.evaluation
    wrong = round((1 - e.accuracy) * e.images)
    facts = [
        ("Test accuracy", f"{e.accuracy:.2%}", f"{wrong:,} of {e.images:,} images wrong"),
        ("Macro F1", f"{e.macro_f1:.4f}", f"worst class {min(e.f1):.3f}"),
        ("Loss", f"{e.loss:.4f}", "cross-entropy, nats"),
        ("Calibration error", f"{e.calibration_error:.4f}", _calibration_hint(e)),
        ("Parameters", _compact(run.parameters), f"{run.parameters:,}"),
        ("Model file", f"{run.size_bytes / 1e6:.2f} MB", "ONNX, self-describing"),
        ("Training", _duration(run.training_s), plural(len(run.rows), "epoch")),
    ]
    return cards(facts)


def _calibration_hint(e: Evaluation) -> str:
    confidence = float(np.dot(e.confidence_histogram, e.bin_confidence) / e.images)
    gap = confidence - e.accuracy
    if abs(gap) < 0.005:
        return "confidence equals accuracy"
    return f"{abs(gap):.1%} {'over' if gap > 0 else 'under'}confident on average"


def _confusion(e: Evaluation) -> str:
    if len(e.classes) > plots.MOST_NAMED:
        note = f"the most frequently confused pairs of {len(e.classes)} classes"
        return f"<h2>Confusion <small>{note}</small></h2>{_confused_pairs(e)}"
    note = "rows are labels, columns are predictions; mistakes are on a steeper colour scale"
    return f"<h2>Confusion matrix <small>{note}</small></h2>{_matrix(e)}"


def _confused_pairs(e: Evaluation) -> str:
    counts = np.array(e.confusion)
    np.fill_diagonal(counts, 0)
    rows = []
    for place in np.argsort(-counts, axis=None, kind="stable")[:_PAIRS]:
        label, guess = divmod(int(place), len(e.classes))
        if count := int(counts[label, guess]):
            name, taken_for = (html.escape(e.classes[index]) for index in (label, guess))
            rows.append(
                f"<tr><th scope=row>{name}</th><td class=text>{taken_for}</td>"
                f"<td>{count:,}</td>{_bar(count / e.support[label])}</tr>"
            )
    head = (
        "<th scope=col class=text>Class</th><th scope=col class=text>Taken for</th>"
        "<th scope=col>Images</th><th scope=col>Share</th>"
    )
    return f'<table class="classes"><tr>{head}</tr>{"".join(rows)}</table>'


def _matrix(e: Evaluation) -> str:
    head = "".join(f"<th scope=col><span>{_shortened(name, 14)}</span></th>" for name in e.classes)
    rows = []
    for index, (name, counts) in enumerate(zip(e.classes, e.confusion, strict=True)):
        cells = []
        for column, count in enumerate(counts):
            share = count / max(e.support[index], 1)
            kind = "miss" if column != index else "hit" if share > 0.5 else "hit faint"
            # Mistakes are rare, so their colour scale is steeper.
            weight = share if column == index else min(1.0, 4 * share)
            text = str(count) if count else ""
            hint = f"{name} as {e.classes[column]}: {count} ({share:.1%})"
            cells.append(
                f'<td class="{kind}" style="--w:{weight * 100:.0f}%" '
                f'title="{html.escape(hint)}">{text}</td>'
            )
        rows.append(f"<tr><th scope=row>{_shortened(name, 28)}</th>{''.join(cells)}</tr>")
    return f'<table class="confusion"><tr><td></td>{head}</tr>{"".join(rows)}</table>'


def _shortened(name: str, most: int) -> str:
    """A class name as HTML, cut to a maximum length; the whole name is its tooltip."""
    if len(name) <= most:
        return html.escape(name)
    short = html.escape(f"{name[: most - 1]}…")
    return f'<span title="{html.escape(name)}">{short}</span>'


def _classes(e: Evaluation) -> str:
    rows = []
    for index in np.argsort(e.f1, kind="stable"):
        mistaken = np.array(e.confusion[index])
        mistaken[index] = 0
        rival = int(mistaken.argmax())
        often = f"{html.escape(e.classes[rival])} ({mistaken[rival]})" if mistaken[rival] else "–"
        rows.append(
            f"<tr><th scope=row>{html.escape(e.classes[index])}</th>"
            f"{_bar(e.precision[index])}{_bar(e.recall[index])}{_bar(e.f1[index])}"
            f"<td>{e.support[index]:,}</td><td class=text>{often}</td></tr>"
        )
    names = ("Precision", "Recall", "F1", "Images")
    head = "".join(f"<th scope=col>{name}</th>" for name in names)
    return (
        f'<table class="classes"><tr><th scope=col class=text>Class</th>{head}'
        f"<th scope=col class=text>Most often taken for</th></tr>{''.join(rows)}</table>"
    )


def _bar(share: float) -> str:
    return f'<td><span class="bar" style="--w:{share:.1%}"></span>{share:.3f}</td>'


def _mistakes(run: Run) -> str:
    worst = worst_mistakes(run.probabilities, run.labels, MISTAKES)
    if not len(worst):
        return "<p>None: every image was classified right.</p>"
    classes = [html.escape(name) for name in run.evaluation.classes]
    figures = []
    for index in worst:
        p, label = run.probabilities[index], classes[int(run.labels[index])]
        guess = f"{classes[int(p.argmax())]} <b>{p.max():.1%}</b>"
        looked_at = _heat(run.looked_at[index]) if index in run.looked_at else ""
        figures.append(
            f'<figure><div><img alt="{label}" src="{plots.data_uri(run.images[index])}">'
            f"{looked_at}</div><figcaption><span>{label}</span>{guess}</figcaption></figure>"
        )
    switch = (
        "<p><label><input type=checkbox checked> mark what each answer looked at: covered, it is "
        "less sure</label></p>"
        if run.looked_at
        else ""
    )
    return f'{switch}<div class="mistakes">{"".join(figures)}</div>'


def _heat(looked_at: NDArray[np.floating[Any]]) -> str:
    """A saliency map as an overlay for its image."""
    falls = np.maximum(looked_at, 0)
    pixels = np.empty((*falls.shape, 4), np.uint8)
    pixels[..., :3] = _MARK
    pixels[..., 3] = (_MARK_ALPHA * falls / max(float(falls.max()), 1e-6)).astype(np.uint8)
    return f'<img class="heat" alt="" src="{plots.data_uri(pixels)}">'


def _augmentation(samples: NDArray[np.uint8] | None) -> str:
    if samples is None:
        return ""
    note = "each row: an image on the left, then how training augments it in the first epochs"
    sheet = plots.data_uri(plots.contact_sheet(samples))
    return (
        f"<section><h2>Augmentation <small>{note}</small></h2>"
        f'<figure><img alt="augmented training images" src="{sheet}"></figure></section>'
    )


def _machine(run: Run) -> str:
    if not run.system:
        return ""
    figure = inline_svg(run.svg("machine"))
    return f"<section><h2>Machine <small>during training</small></h2>{figure}</section>"


def _provenance(facts: Mapping[str, str]) -> str:
    return "".join(
        f"<dt>{html.escape(name)}</dt><dd>{html.escape(value)}</dd>"
        for name, value in _filled(facts.items())
    )


def _filled(pairs: Iterable[tuple[str, str]]) -> Iterable[tuple[str, str]]:
    return ((name, value or "–") for name, value in pairs)


def _compact(number: int) -> str:
    for size, suffix in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if number >= size:
            return f"{number / size:.3g}{suffix}"
    return str(number)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes} min {rest} s" if minutes else f"{seconds:.3g} s"


def origin(metadata: ArtifactMetadata) -> dict[str, str]:
    """A model's origin, with human-readable labels."""
    return {
        "Model version": metadata.version,
        "Git revision": metadata.git_revision,
        "Configuration": metadata.config_digest,
        "Dataset": metadata.dataset_digest,
        "Package lock": metadata.lock_digest,
        "Trained on": f"{metadata.device}, {metadata.precision}",
    }


def _looked_at(
    test: Labelled,
    probabilities: NDArray[np.floating[Any]],
    answer: Callable[[NDArray[np.uint8]], NDArray[np.float32]],
) -> dict[int, NDArray[np.floating[Any]]]:
    worst = worst_mistakes(probabilities, test.labels, MISTAKES)
    return {int(index): saliency(answer(occluded(test.images[index]))) for index in worst}


def draw_run(
    run: RunFolder,
    metadata: ArtifactMetadata,
    evaluation: Evaluation,
    *,
    test: Labelled,
    probabilities: NDArray[np.floating[Any]],
    parameters: int,
    augmented: NDArray[np.uint8] | None = None,
    answer: Callable[[NDArray[np.uint8]], NDArray[np.float32]] | None = None,
) -> None:
    """Writes plots/, mistakes/ and report.html into a folder that holds its model.

    Args:
        test: the evaluated images.
        probabilities: (N, K), the evaluated predictions.
        parameters: number of the network's parameters.
        augmented: see `ml.data.datamodule.ImageData.augmented_samples`; None omits them.
        answer: computes (N, K) probabilities of images, for saliency maps of the worst mistakes;
            None omits them.
    """
    rows = read_rows(run.metrics)
    facts = Run(
        name=metadata.name,
        evaluation=evaluation,
        rows=rows,
        images=test.images,
        labels=test.labels,
        probabilities=probabilities,
        parameters=parameters,
        size_bytes=run.model.stat().st_size,
        training_s=rows[-1]["elapsed_s"],
        config=run.config.read_text(encoding="utf-8"),
        provenance=origin(metadata),
        system=read_rows(run.system),
        augmented=augmented,
        looked_at={} if answer is None else _looked_at(test, probabilities, answer),
    )
    write_plots(facts, run.plots)
    run.mistakes.mkdir(exist_ok=True)  # empty if there are none
    write_mistakes(facts, run.mistakes)
    write_report(facts, run.report)
