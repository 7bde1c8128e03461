"""Measures false-alarm and detection rates of drift detection with a model.

The test images are repeatedly split in halves: one becomes the reference, the other is traffic,
clean or corrupted as in CIFAR-10-C. It is cut into windows, or with --online streamed through the
service's alarm, which also measures its delay. Writes a table, JSON and a plot.

  bazel run //ml/drift:evaluate                           # the bundled model, 10,000 clean windows
  bazel run //ml/drift:evaluate -- --model runs/<folder> --corruptions noise jpeg --windows 200
  bazel run //ml/drift:evaluate_online -- --corruptions noise jpeg --severities 1 --streams 100
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from rich.text import Text

from common.command_line import command_parser, count, share
from common.figures import INK, STYLE, new_figure, to_png, to_svg
from common.files import user_path, write_whole
from common.model.drift import DEFAULT_LIMITS, DriftLimits, WatchLimits
from common.terminal import Progress, terminal
from ml.artifact.artifact import Artifact, ArtifactError, load_artifact, model_path
from ml.data.cifar10 import DatasetError
from ml.data.fetch import FetchError
from ml.drift.corruptions import (
    ALIASES,
    CORRUPTIONS,
    SEVERITIES,
    CorruptionError,
    corrupt,
    parse_corruption,
)
from ml.drift.observed import Observed, observe
from ml.drift.simulation import Detection, FalseAlarms, WindowRate, measure_streams, measure_windows
from ml.report.plots import HEAT
from ml.runs.datasets import dataset_of_file

BAD_INPUT = 2
_Found = TypeVar("_Found", WindowRate, Detection)


@dataclass(frozen=True)
class WindowResults:
    """Detection rates of single windows."""

    rates: Sequence[WindowRate]
    limits: DriftLimits

    def print(self, console: Console) -> None:
        """Clean windows first, then one row per corruption and severity, one column per window
        size.
        """
        clean = {rate.size: rate for rate in self.rates if rate.condition == "clean"}
        names = ("images", "windows", "alarms", "rate, 95 % interval", "by significance alone")
        table = _table("False alarms of clean windows", right=names)
        for size, rate in clean.items():
            low, high = rate.interval
            shown = f"{rate.rate:.3%} ({low:.3%} to {high:.3%})"
            chance = f"{rate.alarms_by_chance / rate.windows:.3%}"
            table.add_row(str(size), f"{rate.windows:,}", str(rate.alarms), shown, chance)
        console.print(table)
        stated = f"Guaranteed: at most {self.limits.false_alarm_rate:.2%} of windows."
        console.print(stated, highlight=False)
        table = _table(
            "Share of corrupted windows detected",
            left=["corruption"],
            right=[*(f"{size} images" for size in clean), "by predictions alone"],
        )
        table.add_column("most sensitive signals")
        for name, found in _by_condition(self.rates).items():
            last = found[-1]
            alone = _percent(last.alarms_of_predictions / last.windows)
            telling = sorted(last.signals, key=lambda signal: -last.signals[signal])[:2]
            table.add_row(name, *(_percent(rate.rate) for rate in found), alone, ", ".join(telling))
        console.print(table)

    def figure(self) -> Figure:
        """All rates as text, with the false alarms of a window size in its panel's title."""
        return heat_map(
            {
                f"{clean.size} images: % detected\nfalse alarms {clean.rate:.2%}": {
                    rate.condition: (rate.rate, f"{100 * rate.rate:.0f}")
                    for rate in self.rates
                    if rate.size == clean.size and rate.condition != "clean"
                }
                for clean in self.rates
                if clean.condition == "clean"
            },
            cell=(2.7, 0.42),
        )

    def as_dict(self) -> dict[str, Any]:
        """The results as values that JSON can hold."""
        rows = [asdict(r) | {"rate": r.rate, "interval": r.interval} for r in self.rates]
        return {"limits": asdict(self.limits), "rates": rows}


@dataclass(frozen=True)
class StreamResults:
    """Behaviour of the service's alarm on streams."""

    false_alarms: Sequence[FalseAlarms]
    detections: Sequence[Detection]
    limits: WatchLimits

    def print(self, console: Console) -> None:
        """Clean streams first, then one row per corruption and severity, three columns per
        window.
        """
        names = ("window", "windows", "judgements", "alarms", "at most, 95 %", "nearest miss")
        table = _table("Alarms of clean streams", right=names)
        for clean in self.false_alarms:
            counts = (clean.window, clean.windows, clean.judgements, clean.alarms)
            most = f"{clean.interval[1]:.3%} of windows"
            table.add_row(*(f"{number:,}" for number in counts), most, f"{clean.nearest:.2f}")
        console.print(table)
        console.print(
            f"Guaranteed: at most one in {1 / self.limits.false_alarms:,.0f} images. "
            "Nearest miss: the largest statistic as a share of its threshold.",
            highlight=False,
        )
        columns = [
            name
            for clean in self.false_alarms
            for name in (f"{clean.window:,} images", "raised after", "cleared after")
        ]
        title = "Corrupted streams: detected, median delay until raised and cleared"
        table = _table(title, left=["corruption"], right=columns)
        for name, found in _by_condition(self.detections).items():
            cells = ((_percent(d.rate, 0), _images(d.delay), _images(d.relief)) for d in found)
            table.add_row(name, *(cell for triple in cells for cell in triple))
        console.print(table)
        if early := sum(detection.early for detection in self.detections):
            text = f"{early} streams excluded: alarm raised before the corruption"
            console.print(text, style="red")

    def figure(self) -> Figure:
        """A panel per window: colour shows the share detected; cells also have the median delay."""
        return heat_map(
            {
                f"{clean.window:,} images: share raised, after how many\n"
                f"clean: {clean.alarms} alarms in {clean.windows:,} windows": {
                    d.condition: (
                        d.rate,
                        f"{d.rate:.0%}" + ("" if d.delay is None else f" after {d.delay:,.0f}"),
                    )
                    for d in self.detections
                    if d.window == clean.window
                }
                for clean in self.false_alarms
            },
            cell=(3.2, 0.46),
        )

    def as_dict(self) -> dict[str, Any]:
        """The results as values that JSON can hold."""
        return {
            "limits": asdict(self.limits),
            "clean": [asdict(one) | {"interval": one.interval} for one in self.false_alarms],
            "corrupted": [
                asdict(one) | {"rate": one.rate, "delay": one.delay, "relief": one.relief}
                for one in self.detections
            ],
        }


def heat_map(
    panels: Mapping[str, Mapping[str, tuple[float, str]]], cell: tuple[float, float]
) -> Figure:
    """Panels of corruption by severity.

    Args:
        panels: by title, colour value and text of each ``kind:severity``.
        cell: width of a panel and height of a row in inches.
    """
    conditions = [name.split(":") for name in dict.fromkeys(n for p in panels.values() for n in p)]
    kinds = list(dict.fromkeys(kind for kind, _ in conditions))
    severities = sorted({severity for _, severity in conditions})
    figure = new_figure(1.7 + cell[0] * len(panels), 1.4 + cell[1] * max(1, len(kinds)))
    with matplotlib.rc_context(STYLE | {"axes.grid": False}):
        row = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for axes, (title, cells) in zip(row, panels.items(), strict=True):
            shares = np.full((len(kinds), len(severities)), np.nan)
            for name, (value, text) in cells.items():
                kind, severity = name.split(":")
                y, x = kinds.index(kind), severities.index(severity)
                shares[y, x] = value
                color = "white" if value > 0.55 else INK
                axes.text(x, y, text, ha="center", va="center", color=color, fontsize=8)
            if shares.size:
                axes.imshow(shares, cmap=HEAT, vmin=0, vmax=1, aspect="auto")
            axes.set(title=title, xlabel="severity")
            axes.set_xticks(range(len(severities)), severities)
            axes.spines[:].set_visible(False)
        row[0].set_yticks(range(len(kinds)), [kind.replace("_", " ") for kind in kinds])
    return figure


def main(arguments: Sequence[str], console: Console) -> int:
    is_online = "--online" in arguments
    options = (_online_options() if is_online else _options()).parse_args(arguments)
    try:
        study = _streams(options) if is_online else _windows(options)
        kinds = [parse_corruption(name)[0] for name in options.corruptions]
        path = model_path(options.model)
        artifact = load_artifact(path, threads=options.threads)
        with Progress("reading the images", console=console) as progress:
            test = dataset_of_file(path, artifact.metadata).read("test")
            pixels = test.images[: options.images]
            clean, corrupted = _observe_conditions(artifact, pixels, kinds, options, progress)
            progress.begin("simulating traffic", 1.0)
            results = study(clean, corrupted, len(artifact.metadata.classes), progress.update)
        results.print(console)
        facts = {
            "model": artifact.metadata.name,
            "model_version": artifact.metadata.version,
            "images": len(clean.predictions),
        }
        stem = "drift_online" if is_online else "drift_rates"
        for path in write_results(results, facts, user_path(options.out) / stem):
            console.print(str(path), highlight=False, soft_wrap=True)
    except (ArtifactError, CorruptionError, DatasetError, FetchError, ValueError, OSError) as exc:
        console.print(str(exc), style="red", markup=False, highlight=False, soft_wrap=True)
        return BAD_INPUT
    return 0


def write_results(
    results: WindowResults | StreamResults, facts: Mapping[str, object], stem: Path
) -> list[Path]:
    """``<stem>.json``, ``.png`` and ``.svg``."""
    figure = results.figure()
    files: dict[str, bytes | str] = {
        ".json": json.dumps({**facts, **results.as_dict()}, indent=2) + "\n",
        ".png": to_png(figure),
        ".svg": to_svg(figure),
    }
    for suffix, data in files.items():
        write_whole(stem.with_suffix(suffix), data)
    return [stem.with_suffix(suffix) for suffix in files]


_Study = Callable[
    [Observed, Mapping[str, Observed], int, Callable[[float], None]], WindowResults | StreamResults
]


_SIZES = (100, 300, 1000)


def _fitting(images: int) -> list[int]:
    """Default window sizes that these images fill twice; half of few images."""
    return [size for size in _SIZES if 2 * size <= images] or [max(1, images // 2)]


def _windows(options: argparse.Namespace) -> _Study:
    limits = DriftLimits(false_alarm_rate=options.false_alarm_rate)
    return lambda clean, corrupted, classes, progress: WindowResults(
        measure_windows(
            clean,
            corrupted,
            classes=classes,
            sizes=sorted(options.sizes or _fitting(len(clean.predictions))),
            clean_windows=options.clean_windows,
            corrupted_windows=options.windows,
            limits=limits,
            seed=options.seed,
            progress=progress,
        ),
        limits,
    )


def _streams(options: argparse.Namespace) -> _Study:
    limits = WatchLimits(tuple(options.windows), options.false_alarms)
    return lambda clean, corrupted, classes, progress: StreamResults(
        *measure_streams(
            clean,
            corrupted,
            classes=classes,
            limits=limits,
            clean_windows=options.clean_windows,
            streams=options.streams,
            seed=options.seed,
            progress=progress,
        ),
        limits,
    )


def _observe_conditions(
    artifact: Artifact,
    pixels: NDArray[np.uint8],
    kinds: Sequence[str],
    options: argparse.Namespace,
    progress: Progress,
) -> tuple[Observed, dict[str, Observed]]:
    """(N, H, W, 3) images unchanged, and with each corruption, by `kind:severity`."""
    conditions = [(kind, severity) for kind in kinds for severity in options.severities]
    progress.begin("predicting", len(pixels) * (1 + len(conditions)))
    clean, corrupted = observe(artifact, pixels, "clean", progress.advance), {}
    for kind, severity in conditions:
        name = f"{kind}:{severity}"
        worse = corrupt(pixels, kind, severity, seed=options.seed)
        corrupted[name] = observe(artifact, worse, name, progress.advance)
    return clean, corrupted


def _by_condition(found: Iterable[_Found]) -> dict[str, list[_Found]]:
    grouped: dict[str, list[_Found]] = {}
    for one in found:
        if one.condition != "clean":
            grouped.setdefault(one.condition, []).append(one)
    return grouped


def _table(title: str, left: Sequence[str] = (), right: Sequence[str] = ()) -> Table:
    table = Table(title=title, title_justify="left")
    for name in left:
        table.add_column(name)
    for name in right:
        table.add_column(name, justify="right")
    return table


def _percent(value: float, digits: int = 1) -> Text:
    style = "green" if value >= 0.95 else "yellow" if value >= 0.5 else "red"
    return Text(f"{value:.{digits}%}", style)


def _images(number: float | None) -> Text:
    return Text("–" if number is None else f"{number:,.0f}")


def _options() -> argparse.ArgumentParser:
    parser = _common_options("evaluate", SEVERITIES, "drift-rates")
    add = parser.add_argument
    add(
        "--sizes",
        type=count,
        nargs="+",
        help=f"images per window (default: of {_SIZES} those that leave room for two)",
    )
    add(
        "--windows",
        type=count,
        default=1000,
        help="windows per corruption and severity (%(default)s)",
    )
    add(
        "--false-alarm-rate",
        type=share,
        default=DEFAULT_LIMITS.false_alarm_rate,
        help="false-alarm rate per window (%(default)s)",
    )
    return parser


def _online_options() -> argparse.ArgumentParser:
    defaults = WatchLimits()
    parser = _common_options("evaluate_online", (1, 3, 5), "drift-online")
    add = parser.add_argument
    add(
        "--windows",
        type=int,
        nargs="+",
        default=list(defaults.windows),
        help="images per window, multiples of 10 (default: the service's)",
    )
    add(
        "--false-alarms",
        type=share,
        default=defaults.false_alarms,
        help="limit of false alarms per clean image (%(default)s)",
    )
    add(
        "--streams",
        type=count,
        default=100,
        help="streams per corruption and severity (%(default)s)",
    )
    return parser


def _common_options(program: str, severities: Sequence[int], out: str) -> argparse.ArgumentParser:
    parser = command_parser(f"//ml/drift:{program}", __doc__)
    add = parser.add_argument
    add("--model", help="model.onnx or a run folder (default: the bundled model)")
    add("--online", action="store_true", help="run streams through the service's alarm")
    add("--clean-windows", type=count, default=10_000, help="(%(default)s)")
    add(
        "--corruptions",
        nargs="+",
        default=list(CORRUPTIONS),
        metavar="KIND",
        help=f"of {', '.join([*CORRUPTIONS, *ALIASES])} (default: all)",
    )
    add("--severities", type=int, nargs="+", default=list(severities), choices=SEVERITIES)
    add("--images", type=count, default=10_000, help="number of test images (%(default)s)")
    add("--out", default=out, help="folder for results (%(default)s)")
    add("--threads", type=int, default=0, help="inference threads (0: one per core)")
    add("--seed", type=int, default=0)
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], terminal()))
