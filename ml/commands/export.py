"""Exports a trained network to ONNX in fp32 and INT8, behind gates.

  bazel run //ml:export -- runs/<folder>                          a finished run, or the best
                                                                  checkpoint of an unfinished one
  bazel run //ml:export -- runs/<folder>/checkpoints/last.ckpt    that one, calibrated
  bazel run //ml:export -- runs/<folder> --output /tmp/model      not to runs/<folder>/export
  bazel run //ml:export -- runs/<folder> --no-int8                fp32 alone

Gates: ONNX and PyTorch agree within 1e-4 in every probability, over the whole test set and at
batches of 1, 2, 7 and 100; INT8 loses at most 0.3 points of accuracy. What does not pass is not
written.

Exit codes: 0 written, 1 refused by a gate, 2 bad input.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hydra.errors import InstantiationException
from rich.console import Console
from rich.table import Table

from common.files import user_path
from common.model.artifact import ArtifactMetadata
from common.terminal import Progress, terminal
from ml.artifact.artifact import ArtifactError, load_artifact
from ml.artifact.evaluation import Evaluation, accuracy_interval
from ml.artifact.export import PARITY_TOLERANCE, ExportReport, ParityError, export_artifact
from ml.artifact.quantise import (
    ACCURACY_TOLERANCE,
    AccuracyError,
    QuantisationReport,
    quantise_artifact,
)
from ml.data.cifar10 import DatasetError
from ml.runs.loading import HeldOut, WeightsError, calibration_images, held_out
from ml.runs.source import Source, SourceError, open_source

REFUSED, BAD_INPUT = 1, 2  # exit codes


@dataclass(frozen=True)
class Exported:
    """The files that were written."""

    full: ExportReport
    small: QuantisationReport | None


def export_full(source: Source, test: HeldOut, path: Path) -> ExportReport:
    """The fp32 artifact, or `ParityError`."""
    return export_artifact(
        source.network,
        path,
        name=source.cfg.name,
        classes=source.data.classes,
        mean=source.data.mean,
        std=source.data.std,
        provenance=source.provenance,
        images=test.images,
        labels=test.labels,
    )


def export_small(source: Source, test: HeldOut, full: Path, path: Path) -> QuantisationReport:
    """Exports the INT8 sibling; raises `AccuracyError`."""
    return quantise_artifact(
        full,
        path,
        calibration_images=calibration_images(source.data),
        images=test.images,
        labels=test.labels,
    )


def export(
    source: Source, folder: Path, *, int8: bool, progress: Callable[[str], None]
) -> Exported:
    """Writes model.onnx and model.int8.onnx, and loads each once more as a service would.

    Raises:
        ParityError, AccuracyError: a gate refuses; what passed before it stays.
    """
    progress("evaluating on the test set, exporting, comparing ONNX with PyTorch")
    test, full, small = held_out(source.data), folder / "model.onnx", folder / "model.int8.onnx"
    report = export_full(source, test, full)
    load_artifact(full)
    if not int8:
        return Exported(report, None)
    progress("calibrating and evaluating INT8")
    quantised = export_small(source, test, full, small)
    load_artifact(small)
    return Exported(report, quantised)


def print_table(exported: Exported, console: Console) -> None:
    """Prints one row per file with the results of its gates."""
    table = Table(
        title=f"{exported.full.metadata.name}, {exported.full.evaluation.images:,} images"
    )
    for name in ("", "bytes", "test accuracy", "95 %", "gate", "version"):
        table.add_column(name, justify="left" if name in ("", "gate", "version") else "right")
    full, small = exported.full, exported.small
    gate = f"[green]max |Δp| {full.parity:.1e}[/] ≤ {PARITY_TOLERANCE:g}"
    table.add_row("fp32", *_cells(full.size_bytes, full.evaluation), gate, _short(full.metadata))
    if small:
        change = f"{-small.accuracy_lost * 100:+.2f} points"
        gate = f"[green]{change}[/] ≥ {-ACCURACY_TOLERANCE * 100:g}"
        cells = _cells(small.size_bytes, small.evaluation)
        table.add_row("INT8", *cells, gate, _short(small.metadata))
    console.print(table)
    console.print(f"fp32 {full.simplification}", highlight=False)
    for written in (full.path, *([small.path] if small else [])):
        console.print(f"  {written}", highlight=False, soft_wrap=True)


def _cells(size_bytes: int, evaluation: Evaluation) -> tuple[str, str, str]:
    low, high = accuracy_interval(evaluation)
    return f"{size_bytes:,}", f"{evaluation.accuracy:.2%}", f"{low * 100:.2f}–{high * 100:.2f}"


def _short(metadata: ArtifactMetadata) -> str:
    return metadata.version[:12]


def main(arguments: Sequence[str], console: Console) -> int:
    """Entry point of the command."""
    options = _options().parse_args(arguments)
    try:
        with Progress("opening the network", console=console) as progress:

            def begin(step: str) -> None:
                console.print(f"[dim]{step} ...[/]")
                progress.begin(step)

            source = open_source(user_path(options.source))
            folder = user_path(options.output) if options.output else source.run.path / "export"
            console.print(f"Exporting {source.weights}", highlight=False, soft_wrap=True)
            if source.temperature != 1.0:
                console.print(f"Calibrated on validation: temperature {source.temperature:.3f}")
            exported = export(source, folder, int8=not options.no_int8, progress=begin)
    except (SourceError, WeightsError, DatasetError, InstantiationException, OSError) as exc:
        console.print(f"[red]{exc}[/]\nNothing was written.", highlight=False, soft_wrap=True)
        return BAD_INPUT
    except (ParityError, AccuracyError, ArtifactError) as exc:
        console.print(f"[red]Refused:[/] {exc}", highlight=False, soft_wrap=True)
        return REFUSED
    print_table(exported, console)
    return 0


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bazel run //ml:export --",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", help="run folder, network.pt or a checkpoint in one")
    parser.add_argument("--output", help="folder for the files (default: <run folder>/export)")
    parser.add_argument("--no-int8", action="store_true", help="write fp32 alone")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], terminal()))
