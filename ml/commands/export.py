"""Exports a trained network to ONNX in fp32 and INT8, behind gates.

  bazel run //ml:export -- runs/<folder>                          a finished run, or the best
                                                                  checkpoint of an unfinished one
  bazel run //ml:export -- runs/<folder>/checkpoints/last.ckpt    this checkpoint, calibrated
  bazel run //ml:export -- runs/<folder> --output /tmp/model      instead of runs/<folder>/export
  bazel run //ml:export -- runs/<folder> --no-int8                fp32 only

Gates: ONNX and PyTorch agree within 1e-4 in every probability, over the whole test set and at
batch sizes 1, 2, 7 and 100; INT8 loses at most 0.3 points of accuracy. A model that fails is not
written.

Exit codes: 0 written, 1 rejected by a gate, 2 bad input.
"""

import argparse
import sys
from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from common.command_line import command_parser
from common.files import user_path
from common.model.artifact import ArtifactMetadata
from common.terminal import Progress, terminal
from ml import stages
from ml.artifact.artifact import ArtifactError
from ml.artifact.evaluation import Evaluation, accuracy_interval
from ml.artifact.export import PARITY_TOLERANCE, ExportReport, ParityError
from ml.artifact.quantise import ACCURACY_TOLERANCE, AccuracyError, QuantisationReport
from ml.data.cifar10 import DatasetError
from ml.runs.loading import TrainedError, open_trained

REFUSED, BAD_INPUT = 1, 2  # exit codes


def print_table(full: ExportReport, small: QuantisationReport | None, console: Console) -> None:
    """Prints one row per file with the results of its gates."""
    table = Table(title=f"{full.metadata.name}, {full.evaluation.images:,} images")
    for name in ("", "bytes", "test accuracy", "95 %", "gate", "version"):
        table.add_column(name, justify="left" if name in ("", "gate", "version") else "right")
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

            trained = open_trained(user_path(options.source), or_checkpoint=True)
            folder = user_path(options.output) if options.output else trained.run.path / "export"
            console.print(f"Exporting {trained.weights}", highlight=False, soft_wrap=True)
            if trained.temperature != 1.0:
                console.print(f"Calibrated on validation: temperature {trained.temperature:.3f}")
            int8 = not options.no_int8
            full, small = stages.export_anew(trained, folder, int8=int8, progress=begin)
    except (TrainedError, DatasetError, OSError) as exc:
        console.print(
            f"[red]{escape(str(exc))}[/]\nNothing was written.", highlight=False, soft_wrap=True
        )
        return BAD_INPUT
    except (ParityError, AccuracyError, ArtifactError) as exc:
        console.print(f"[red]Refused:[/] {escape(str(exc))}", highlight=False, soft_wrap=True)
        return REFUSED
    print_table(full, small, console)
    return 0


def _options() -> argparse.ArgumentParser:
    parser = command_parser("//ml:export", __doc__)
    parser.add_argument("source", help="run folder, network.pt or a checkpoint in one")
    parser.add_argument("--output", help="folder for the files (default: <run folder>/export)")
    parser.add_argument("--no-int8", action="store_true", help="write only fp32")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], terminal()))
