"""Measures the alarm that the service raises on drift: silence, detection and delay.

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

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ml.artifact import ArtifactError, load_artifact
from ml.data.cifar10 import DatasetError
from ml.drift.corruptions import ALIASES, CORRUPTIONS, SEVERITIES, CorruptionError, parse_corruption
from ml.drift.evaluate import answers
from ml.drift.online import Detection, Silence, measure_online
from ml.drift.online_figure import online_figure
from ml.files import write_whole
from ml.inputs import model_path, user_path
from ml.options import count, share
from serve.contract.drift_watch import WatchLimits
from tools.figures import to_png, to_svg
from tools.progress import Progress
from tools.terminal import terminal


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
