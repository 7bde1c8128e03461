"""Measures the service's drift alarm: silence on clean traffic, detection and delay.

Streams of test images, clean and then spoiled like CIFAR-10-C, are judged as the service judges its
traffic, against a reference of other test images. Writes a table, JSON and a plot.

  bazel run //ml/drift:evaluate_online                    # the bundled model, 10,000 clean windows
  bazel run //ml/drift:evaluate_online -- --corruptions noise jpeg --severities 1 --streams 100
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
from common.model.drift import WatchLimits
from common.terminal import Progress, terminal
from ml.artifact.artifact import ArtifactError, load_artifact
from ml.data.cifar10 import DatasetError
from ml.drift.corruptions import ALIASES, CORRUPTIONS, SEVERITIES, CorruptionError, parse_corruption
from ml.drift.evaluate import answers
from ml.drift.online import Detection, Silence, measure_online
from ml.report.plots import HEAT
from ml.runs.inputs import count, model_path, share


def online_figure(silences: Sequence[Silence], detections: Sequence[Detection]) -> Figure:
    """A panel a window: the share detected as colour; in a cell, that and the median delay."""
    kinds = list(dict.fromkeys(d.condition.split(":")[0] for d in detections))
    severities = sorted({int(d.condition.split(":")[1]) for d in detections})
    figure = new_figure(1.8 + 3.2 * len(silences), 1.5 + 0.46 * max(1, len(kinds)))
    with matplotlib.rc_context(STYLE | {"axes.grid": False}):
        panels = figure.subplots(1, len(silences), sharey=True, squeeze=False)[0]
        for axes, silence in zip(panels, silences, strict=True):
            cells = np.full((len(kinds), len(severities)), np.nan)
            for d in detections:
                if d.window != silence.window:
                    continue
                kind, severity = d.condition.split(":")
                row, column = kinds.index(kind), severities.index(int(severity))
                cells[row, column] = d.rate
                text = f"{d.rate:.0%}" + ("" if d.delay is None else f" after {d.delay:,.0f}")
                color = "white" if d.rate > 0.55 else INK
                axes.text(column, row, text, ha="center", va="center", color=color, fontsize=8)
            if cells.size:
                axes.imshow(cells, cmap=HEAT, vmin=0, vmax=1, aspect="auto")
            title = (
                f"{silence.window:,} images: share raised, after how many\n"
                f"clean: {silence.alarms} alarms in {silence.windows:,} windows"
            )
            axes.set(title=title, xlabel="severity")
            axes.set_xticks(range(len(severities)), map(str, severities))
            axes.spines[:].set_visible(False)
        panels[0].set_yticks(range(len(kinds)), [kind.replace("_", " ") for kind in kinds])
    return figure


def main(arguments: Sequence[str], console: Console) -> int:
    """Answer, replay, print, write; returns the exit code."""
    options = _options().parse_args(arguments)
    try:
        limits = WatchLimits(tuple(options.windows), options.false_alarms)
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
            progress.begin("replaying streams", 1.0)
            silences, detections = measure_online(
                clean,
                spoiled,
                classes=len(artifact.metadata.classes),
                limits=limits,
                clean_windows=options.clean_windows,
                streams=options.streams,
                seed=options.seed,
                progress=progress.update,
            )
        print_online(silences, detections, limits, console)
        facts = {
            "model": artifact.metadata.name,
            "model_version": artifact.metadata.version,
            "images": len(clean.predictions),
            "limits": asdict(limits),
        }
        for path in write_online(silences, detections, facts, user_path(options.out)):
            console.print(str(path), highlight=False, soft_wrap=True)
    except (ArtifactError, CorruptionError, DatasetError, ValueError, OSError) as exc:
        console.print(str(exc), style="red", markup=False, highlight=False, soft_wrap=True)
        return 2
    return 0


def print_online(
    silences: Sequence[Silence],
    detections: Sequence[Detection],
    limits: WatchLimits,
    console: Console,
) -> None:
    """Clean streams first, then a row a corruption and severity, three columns a window."""
    table = Table(title="Alarms of clean streams", title_justify="left")
    for name in ("window", "windows", "judgements", "alarms", "at most, 95 %", "nearest miss"):
        table.add_column(name, justify="right")
    for silence in silences:
        counts = (silence.window, silence.windows, silence.judgements, silence.alarms)
        most = f"{silence.interval[1]:.3%} of windows"
        table.add_row(*(f"{count:,}" for count in counts), most, f"{silence.nearest:.2f}")
    console.print(table)
    console.print(
        f"Stated: at most one in {1 / limits.false_alarms:,.0f} images. "
        "Nearest miss: the largest statistic as a share of its threshold.",
        highlight=False,
    )
    table = Table(title="Spoiled streams: detected, median delay and relief", title_justify="left")
    table.add_column("corruption")
    for silence in silences:
        for name in (f"{silence.window:,} images", "raised after", "cleared after"):
            table.add_column(name, justify="right")
    by_name: dict[str, list[Detection]] = {}
    for detection in detections:
        by_name.setdefault(detection.condition, []).append(detection)
    for name, found in by_name.items():
        table.add_row(name, *(cell for detection in found for cell in _cells(detection)))
    console.print(table)
    if early := sum(detection.early for detection in detections):
        console.print(f"{early} streams left out: in alarm before they were spoiled", style="red")


def write_online(
    silences: Sequence[Silence],
    detections: Sequence[Detection],
    facts: dict[str, object],
    folder: Path,
) -> list[Path]:
    """`drift_online.json`, `.png` and `.svg`."""
    figure = online_figure(silences, detections)
    found = {
        **facts,
        "clean": [asdict(one) | {"interval": one.interval} for one in silences],
        "spoiled": [
            asdict(one) | {"rate": one.rate, "delay": one.delay, "relief": one.relief}
            for one in detections
        ],
    }
    files: dict[str, bytes | str] = {
        "drift_online.json": json.dumps(found, indent=2) + "\n",
        "drift_online.png": to_png(figure),
        "drift_online.svg": to_svg(figure),
    }
    for name, data in files.items():
        write_whole(folder / name, data)
    return [folder / name for name in files]


def _cells(detection: Detection) -> list[Text]:
    style = "green" if detection.rate >= 0.95 else "yellow" if detection.rate >= 0.5 else "red"
    images = [
        Text("–" if value is None else f"{value:,.0f}")
        for value in (detection.delay, detection.relief)
    ]
    return [Text(f"{detection.rate:.0%}", style), *images]


def _options() -> argparse.ArgumentParser:
    defaults = WatchLimits()
    parser = argparse.ArgumentParser(
        prog="evaluate_online",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", help="model.onnx or a run folder (default: the bundled model)")
    parser.add_argument(
        "--windows",
        type=int,
        nargs="+",
        default=list(defaults.windows),
        help="images in a window, multiples of 10 (default: those of the service)",
    )
    parser.add_argument(
        "--false-alarms",
        type=share,
        default=defaults.false_alarms,
        help="of a clean image, at most (%(default)s)",
    )
    parser.add_argument("--clean-windows", type=count, default=10_000, help="(%(default)s)")
    parser.add_argument(
        "--streams", type=count, default=100, help="for each corruption and severity (%(default)s)"
    )
    parser.add_argument(
        "--corruptions",
        nargs="+",
        default=list(CORRUPTIONS),
        metavar="KIND",
        help=f"of {', '.join([*CORRUPTIONS, *ALIASES])} (default: all)",
    )
    parser.add_argument("--severities", type=int, nargs="+", default=[1, 3, 5], choices=SEVERITIES)
    parser.add_argument(
        "--images", type=count, default=10_000, help="test images used (%(default)s)"
    )
    parser.add_argument("--out", default="drift-online", help="folder for results (%(default)s)")
    parser.add_argument("--threads", type=int, default=0, help="of the model (0: one a core)")
    parser.add_argument("--seed", type=int, default=0)
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], terminal()))
