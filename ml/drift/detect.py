"""Compares live images or logged predictions with a model's drift reference.

Exit codes: 0 no drift, 2 the input cannot be used, 3 drift, 4 too few images.

  bazel run //ml:drift -- --images incoming/             # images for the model to classify
  bazel run //ml:drift -- --predictions answers.jsonl    # responses of /predict, one JSON per line
  bazel run //ml:drift -- --test-set --corruption noise:3
"""

import argparse
import html
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from rich.text import Text

from common.command_line import command_parser, count, share
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
from common.files import user_path, write_whole
from common.images import MAX_PIXELS, Codec
from common.model.artifact import ArtifactMetadata, DriftReference
from common.model.drift import (
    CLASSES,
    DEFAULT_LIMITS,
    Counts,
    DriftLimits,
    DriftReport,
    Statistic,
    compare,
)
from common.terminal import Progress, terminal
from ml.artifact.artifact import Artifact, ArtifactError, load_artifact, model_path
from ml.data.cifar10 import DatasetError
from ml.data.fetch import FetchError
from ml.drift.corruptions import ALIASES, CORRUPTIONS, CorruptionError, corrupt, parse_corruption
from ml.drift.observed import (
    InputError,
    Observed,
    counted,
    image_files,
    listed,
    observe,
    read_images,
    read_log,
)
from ml.runs.datasets import Dataset, dataset_of, dataset_of_file

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


EXIT_CODES = {"no drift": 0, "drift": 3, "too little evidence": 4}
BAD_INPUT = 2


def main(arguments: Sequence[str], console: Console) -> int:
    options = _options().parse_args(arguments)
    limits = DriftLimits(options.false_alarm_rate, options.psi, options.ks, options.fewest)
    try:
        corruption = parse_corruption(options.corruption) if options.corruption else None
        artifact = load_artifact(model_path(options.model), threads=options.threads)
        seen = _observed(options, artifact, corruption, console)
        reference = artifact.metadata.drift_reference
        window = counted(reference, seen.predictions, seen.signals)
        report = compare(reference, window, limits)
        comparison = Comparison(
            artifact.metadata, seen.source, window, report, limits, seen.problems
        )
        print_comparison(comparison, console)
        for path in write_comparison(comparison, user_path(options.out)):
            console.print(str(path), highlight=False, soft_wrap=True)
    except (ArtifactError, CorruptionError, DatasetError, FetchError, InputError, OSError) as exc:
        console.print(str(exc), style="red", markup=False, highlight=False, soft_wrap=True)
        return BAD_INPUT
    return EXIT_CODES[comparison.report.verdict]


def _observed(
    options: argparse.Namespace,
    artifact: Artifact,
    corruption: tuple[str, int] | None,
    console: Console,
) -> Observed:
    if options.predictions:
        path = user_path(options.predictions)
        return read_log(path, artifact.metadata.classes, artifact.metadata.version)
    with Progress("reading the images", console=console) as progress:
        if options.images:
            images, source, problems = _folder(options, artifact, progress)
        else:
            dataset = _dataset(options, artifact)
            images, problems = dataset.read("test").images, ()
            source = f"{dataset.name} test images"
        images = _limited(images, options.limit, options.seed)
        if corruption:
            images = corrupt(images, *corruption, seed=options.seed)
            source += f", {corruption[0]} of severity {corruption[1]}"
        progress.begin("predicting", len(images))
        return replace(observe(artifact, images, source, progress.advance), problems=problems)


def _dataset(options: argparse.Namespace, artifact: Artifact) -> Dataset:
    """The model's own dataset, or CIFAR-10 if it was requested and the model was trained on it."""
    if options.cifar10_test:
        return dataset_of(artifact.metadata, None)
    return dataset_of_file(model_path(options.model), artifact.metadata)


def _folder(
    options: argparse.Namespace, artifact: Artifact, progress: Progress
) -> tuple[NDArray[np.uint8], str, Sequence[str]]:
    folder = user_path(options.images)
    files = image_files(folder)
    metadata = artifact.metadata
    codec = Codec(metadata.input_size, MAX_PIXELS, metadata.resize)
    good, problems = [], []
    progress.begin("reading", len(files))
    for path, pixels in read_images(files, codec):
        progress.advance()
        if isinstance(pixels, str):
            problems.append(f"{path.relative_to(folder)}: {pixels}")
        else:
            good.append(pixels)
    if not good:
        raise InputError(f"{folder}: none of {len(files)} image files can be read ({problems[0]})")
    return np.stack(good), str(folder), problems


def _limited(images: NDArray[np.uint8], most: int | None, seed: int) -> NDArray[np.uint8]:
    """A random sample of at most `most` images."""
    if most is None or most >= len(images):
        return images
    chosen = np.random.default_rng(seed).choice(len(images), most, replace=False)
    return images[np.sort(chosen)]


def _options() -> argparse.ArgumentParser:
    parser = command_parser("//ml:drift", __doc__)
    add = parser.add_argument
    add("--model", help="model.onnx or a run folder (default: the bundled model)")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--images", metavar="FOLDER", help="folder of image files, searched recursively"
    )
    what.add_argument("--predictions", metavar="FILE", help="JSON lines of the service's responses")
    what.add_argument(
        "--test-set", action="store_true", help="use the test images of the model's dataset"
    )
    what.add_argument(
        "--cifar10-test", action="store_true", help="the same, but the dataset must be CIFAR-10"
    )
    names = ", ".join([*CORRUPTIONS, *ALIASES])
    add("--corruption", metavar="KIND:1-5", help=f"corrupt the images: {names}")
    add("--limit", type=count, help="maximum number of images, sampled at random")
    add("--out", default="drift-report", help="folder for results (%(default)s)")
    defaults = DEFAULT_LIMITS
    add(
        "--false-alarm-rate",
        type=share,
        default=defaults.false_alarm_rate,
        help="false-alarm rate per window, over all statistics (%(default)s)",
    )
    add("--psi", type=float, default=defaults.psi, help="smallest relevant PSI (%(default)s)")
    add("--ks", type=float, default=defaults.ks, help="smallest relevant KS distance (%(default)s)")
    add(
        "--fewest",
        type=count,
        default=defaults.fewest_images,
        help="minimum number of images (%(default)s)",
    )
    add("--threads", type=int, default=0, help="inference threads (0: one per core)")
    add("--seed", type=int, default=0)
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], terminal()))
