"""Measures false-alarm and detection rates of drift detection with a model.

The test images are split in halves again and again: one makes the reference, the other is cut into
windows, clean or spoiled like CIFAR-10-C. Writes a table, JSON and a plot.

  bazel run //ml/drift:evaluate                           # the bundled model, 10,000 clean windows
  bazel run //ml/drift:evaluate -- --model runs/<folder> --corruptions noise jpeg --windows 200
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from rich.text import Text

from common.figures import INK, STYLE, new_figure, to_png, to_svg
from common.files import user_path, write_whole
from common.model.drift import DEFAULT_LIMITS, Limits
from common.terminal import Progress, terminal
from ml.artifact.artifact import Artifact, ArtifactError, load_artifact
from ml.data.cifar10 import DatasetError
from ml.drift.corruptions import (
    ALIASES,
    CORRUPTIONS,
    SEVERITIES,
    CorruptionError,
    corrupt,
    parse_corruption,
)
from ml.drift.observed import Observed, observe
from ml.drift.rates import Rate, measure_rates
from ml.report.plots import HEAT
from ml.runs.inputs import cifar10, count, model_path, share


def rates_figure(rates: Sequence[Rate]) -> Figure:
    """Every cell written out; the title of a panel has the false alarms of its window size."""
    sizes = sorted({rate.size for rate in rates})
    spoiled = [rate for rate in rates if ":" in rate.condition]
    kinds = list(dict.fromkeys(rate.condition.split(":")[0] for rate in spoiled))
    severities = sorted({int(rate.condition.split(":")[1]) for rate in spoiled})
    figure = new_figure(1.6 + 2.7 * len(sizes), 1.3 + 0.42 * max(1, len(kinds)))
    with matplotlib.rc_context(STYLE | {"axes.grid": False}):
        panels = figure.subplots(1, len(sizes), sharey=True, squeeze=False)[0]
        for axes, size in zip(panels, sizes, strict=True):
            cells = np.full((len(kinds), len(severities)), np.nan)
            for rate in spoiled:
                kind, severity = rate.condition.split(":")
                if rate.size == size:
                    cells[kinds.index(kind), severities.index(int(severity))] = rate.rate
            if cells.size:
                axes.imshow(cells, cmap=HEAT, vmin=0, vmax=1, aspect="auto")
            for (row, column), share in np.ndenumerate(cells):
                color = "white" if share > 0.55 else INK
                text = f"{100 * share:.0f}"
                axes.text(column, row, text, ha="center", va="center", color=color, fontsize=8)
            clean = next(r for r in rates if r.condition == "clean" and r.size == size)
            title = f"{size} images: % detected\nfalse alarms {clean.rate:.2%}"
            axes.set(title=title, xlabel="severity")
            axes.set_xticks(range(len(severities)), map(str, severities))
            axes.spines[:].set_visible(False)
        panels[0].set_yticks(range(len(kinds)), [kind.replace("_", " ") for kind in kinds])
    return figure


def main(arguments: Sequence[str], console: Console) -> int:
    """Answer, resample, print, write; returns the exit code."""
    options = _options().parse_args(arguments)
    limits = Limits(false_alarm_rate=options.false_alarm_rate)
    try:
        kinds = [parse_corruption(name)[0] for name in options.corruptions]
        artifact = load_artifact(model_path(options.model), threads=options.threads)
        with Progress("reading the images", console=console) as progress:
            clean, spoiled = answers(
                artifact,
                kinds,
                options.severities,
                images=options.images,
                seed=options.seed,
                progress=progress,
            )
            progress.begin("resampling windows", 1.0)
            rates = measure_rates(
                clean,
                spoiled,
                classes=len(artifact.metadata.classes),
                sizes=options.sizes,
                clean_windows=options.clean_windows,
                spoiled_windows=options.windows,
                limits=limits,
                seed=options.seed,
                progress=progress.update,
            )
        print_rates(rates, limits, console)
        facts = {
            "model": artifact.metadata.name,
            "model_version": artifact.metadata.version,
            "images": len(clean.predictions),
            "limits": asdict(limits),
        }
        for path in write_rates(rates, facts, user_path(options.out)):
            console.print(str(path), highlight=False, soft_wrap=True)
    except (ArtifactError, CorruptionError, DatasetError, ValueError, OSError) as exc:
        console.print(str(exc), style="red", markup=False, highlight=False, soft_wrap=True)
        return 2
    return 0


def print_rates(rates: Sequence[Rate], limits: Limits, console: Console) -> None:
    """Clean windows first, then one row a corruption and severity, one column a window size."""
    sizes = sorted({rate.size for rate in rates})
    clean = {rate.size: rate for rate in rates if rate.condition == "clean"}
    table = Table(title="False alarms of clean windows", title_justify="left")
    for name in ("images", "windows", "alarms", "rate, 95 % interval", "beyond chance alone"):
        table.add_column(name, justify="right")
    for size in sizes:
        rate = clean[size]
        low, high = rate.interval
        shown = f"{rate.rate:.3%} ({low:.3%} to {high:.3%})"
        chance = f"{rate.alarms_by_chance / rate.windows:.3%}"
        table.add_row(str(size), f"{rate.windows:,}", str(rate.alarms), shown, chance)
    console.print(table)
    console.print(f"Stated: at most {limits.false_alarm_rate:.2%} of windows.", highlight=False)
    table = Table(title="Share of spoiled windows detected", title_justify="left")
    table.add_column("corruption")
    for size in sizes:
        table.add_column(f"{size} images", justify="right")
    table.add_column("by answers alone", justify="right")
    table.add_column("most telling signals")
    for name in dict.fromkeys(rate.condition for rate in rates if rate.condition != "clean"):
        by_size = {rate.size: rate for rate in rates if rate.condition == name}
        cells = [_percent(by_size[size].rate) for size in sizes]
        largest = by_size[sizes[-1]]
        answers = _percent(largest.alarms_of_answers / largest.windows)
        table.add_row(name, *cells, answers, ", ".join(list(largest.signals)[:2]))
    console.print(table)


def write_rates(rates: Sequence[Rate], facts: dict[str, object], folder: Path) -> list[Path]:
    """`drift_rates.json`, `.png` and `.svg`."""
    rows = [asdict(rate) | {"rate": rate.rate, "interval": rate.interval} for rate in rates]
    figure = rates_figure(rates)
    files: dict[str, bytes | str] = {
        "drift_rates.json": json.dumps({**facts, "rates": rows}, indent=2) + "\n",
        "drift_rates.png": to_png(figure),
        "drift_rates.svg": to_svg(figure),
    }
    for name, data in files.items():
        write_whole(folder / name, data)
    return [folder / name for name in files]


def answers(
    artifact: Artifact,
    kinds: Sequence[str],
    severities: Sequence[int],
    *,
    images: int,
    seed: int,
    progress: Progress,
) -> tuple[Observed, dict[str, Observed]]:
    """To the first test images as they are, and spoiled in each way: by `kind:severity`."""
    pixels = cifar10("test").images[:images]
    conditions = [(kind, severity) for kind in kinds for severity in severities]
    progress.begin("answering", len(pixels) * (1 + len(conditions)))
    clean, spoiled = observe(artifact, pixels, "clean", progress.advance), {}
    for kind, severity in conditions:
        name = f"{kind}:{severity}"
        worse = corrupt(pixels, kind, severity, seed=seed)
        spoiled[name] = observe(artifact, worse, name, progress.advance)
    return clean, spoiled


def _percent(share: float) -> Text:
    style = "green" if share >= 0.95 else "yellow" if share >= 0.5 else "red"
    return Text(f"{share:.1%}", style)


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="evaluate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", help="model.onnx or a run folder (default: the bundled model)")
    parser.add_argument(
        "--sizes", type=count, nargs="+", default=[100, 300, 1000], help="images in a window"
    )
    parser.add_argument("--clean-windows", type=count, default=10_000, help="(%(default)s)")
    parser.add_argument(
        "--windows", type=count, default=1000, help="for each corruption and severity (%(default)s)"
    )
    parser.add_argument(
        "--corruptions",
        nargs="+",
        default=list(CORRUPTIONS),
        metavar="KIND",
        help=f"of {', '.join([*CORRUPTIONS, *ALIASES])} (default: all)",
    )
    parser.add_argument(
        "--severities", type=int, nargs="+", default=list(SEVERITIES), choices=SEVERITIES
    )
    parser.add_argument(
        "--images", type=count, default=10_000, help="test images used (%(default)s)"
    )
    parser.add_argument(
        "--false-alarm-rate",
        type=share,
        default=DEFAULT_LIMITS.false_alarm_rate,
        help="of a window without drift (%(default)s)",
    )
    parser.add_argument("--out", default="drift-rates", help="folder for results (%(default)s)")
    parser.add_argument("--threads", type=int, default=0, help="of the model (0: one a core)")
    parser.add_argument("--seed", type=int, default=0)
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], terminal()))
