"""Makes a finished run the reference model that ships with Kiln.

  bazel run //ml/bundled:adopt -- runs/<folder>
  bazel run //ml/bundled:adopt -- runs/<folder> --min-accuracy 0.5    a temporary one

Re-checks the model: it loads, reproduces its metrics, ONNX and PyTorch agree, fp32 and INT8 are
small and accurate enough. Then writes model.onnx, model.int8.onnx, metrics.json, config.yaml, plots
and MODEL_CARD.md into ml/bundled/, each atomically, the card last; //tests/ml/bundled checks their
consistency.

Exit codes: 0 adopted, 1 rejected by a gate, 2 bad input; in the last two cases nothing is written.
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from common.command_line import command_parser
from common.figures import to_svg
from common.files import user_path, write_whole
from common.model.artifact import ArtifactMetadata, Provenance
from common.terminal import Progress, terminal
from ml import stages
from ml.artifact.evaluation import accuracy_interval
from ml.artifact.export import PARITY_TOLERANCE
from ml.artifact.quantise import ACCURACY_TOLERANCE, AccuracyError
from ml.commands.report import (
    UNUSABLE,
    Finished,
    FinishedError,
    card_facts,
    open_finished,
    small_of,
)
from ml.report import plots
from ml.report.model_card import Small, to_markdown

REFUSED, BAD_INPUT = 1, 2  # exit codes
MIN_ACCURACY = 0.94
MAX_BYTES = 4_000_000
MAX_SMALL_BYTES = 1_200_000

_CARD = "MODEL_CARD.md"
_LICENSE = "apache-2.0"  # this project's


class AdoptionError(ValueError):
    """The model cannot become the reference; the message lists all problems."""


def problems(finished: Finished, small: Small, small_parity_loss: float, floor: float) -> list[str]:
    """The reasons against a model as reference, one line each."""
    size = finished.trained.run.model.stat().st_size
    accuracy, small_accuracy = finished.evaluation.accuracy, small.evaluation.accuracy
    checks = [
        (accuracy >= floor, f"accuracy {accuracy:.2%}, expected at least {floor:.2%}"),
        (
            finished.parity <= PARITY_TOLERANCE,
            f"ONNX and PyTorch differ by {finished.parity:.2g}, at most {PARITY_TOLERANCE:g}",
        ),
        (
            small_parity_loss <= ACCURACY_TOLERANCE,
            f"INT8 accuracy {small_accuracy:.2%}, at most {ACCURACY_TOLERANCE * 100:g} points less",
        ),
        (size <= MAX_BYTES, f"model.onnx has {size:,} bytes, at most {MAX_BYTES:,}"),
        (
            small.size_bytes <= MAX_SMALL_BYTES,
            f"model.int8.onnx has {small.size_bytes:,} bytes, at most {MAX_SMALL_BYTES:,}",
        ),
    ]
    return [text for holds, text in checks if not holds]


def files(finished: Finished, small_path: Path, small: Small) -> dict[str, bytes | str]:
    """The files of the bundled model by name, the card last."""
    run, rows = finished.trained.run, finished.rows
    card = card_facts(finished, _reproduce(finished), small, _LICENSE)
    return {
        "model.onnx": run.model.read_bytes(),
        "model.int8.onnx": small_path.read_bytes(),
        "config.yaml": run.config.read_text(encoding="utf-8"),
        "metrics.json": json.dumps(_metrics(finished, small), indent=2) + "\n",
        "plots/calibration.svg": to_svg(plots.reliability(finished.evaluation)),
        "plots/confusion_matrix.svg": to_svg(plots.confusion_matrix(finished.evaluation)),
        "plots/learning_curves.svg": to_svg(plots.learning_curves(rows)),
        _CARD: to_markdown(card) + _figures(),
    }


def adopt(finished: Finished, folder: Path, floor: float) -> Small:
    """Checks a run's model and copies it to `folder`.

    Raises:
        AdoptionError, AccuracyError: it fails a gate; nothing was written.
    """
    with tempfile.TemporaryDirectory(prefix="kiln-adopt-") as scratch:
        small_path = _small_path(finished, Path(scratch))
        small = small_of(small_path, finished.test)
        lost = finished.evaluation.accuracy - small.evaluation.accuracy
        if found := problems(finished, small, lost, floor):
            raise AdoptionError("; ".join(found) + "; nothing was written")
        for name, data in files(finished, small_path, small).items():
            write_whole(folder / name, data)
    return small


def _small_path(finished: Finished, scratch: Path) -> Path:
    path = scratch / "model.int8.onnx"
    stages.quantise(finished.trained.data, finished.trained.run.model, path, finished.test)
    return path


def _metrics(finished: Finished, small: Small) -> dict[str, Any]:
    summary, run = finished.trained.training, finished.trained.run
    return {
        "name": finished.artifact.metadata.name,
        "test": finished.evaluation.as_dict(),
        "accuracy_interval": accuracy_interval(finished.evaluation),
        "parity": float(f"{finished.parity:.2g}"),
        "model_bytes": run.model.stat().st_size,
        "int8": {"test": small.evaluation.as_dict(), "model_bytes": small.size_bytes},
        "provenance": {
            "fp32": _provenance(finished.artifact.metadata),
            "int8": _provenance(small.metadata),
        },
        "training": {key: value for key, value in summary.items() if key != "test"},
    }


def _provenance(metadata: ArtifactMetadata) -> dict[str, Any]:
    names = ("version", *(field.name for field in fields(Provenance)))
    return {name: getattr(metadata, name) for name in names}


def _reproduce(finished: Finished) -> str:
    name, seed = finished.trained.cfg.name, finished.trained.cfg.seed
    preset = "" if name == "default" else f" experiment={name}"
    return (
        f"git checkout {finished.artifact.metadata.git_revision.removesuffix('-dirty')}\n"
        f"./tools/bazel run //ml:train{preset} seed={seed}\n"
        "./tools/bazel run //ml/bundled:adopt -- runs/<folder>\n"
    )


def _figures() -> str:
    names = ("confusion_matrix", "calibration", "learning_curves")
    lines = [f"![{name.replace('_', ' ')}](plots/{name}.svg)" for name in names]
    return "\n## Figures\n\n" + "\n\n".join(lines) + "\n"


def main(arguments: Sequence[str], console: Console) -> int:
    options = _options().parse_args(arguments)
    workspace = os.environ.get("BUILD_WORKSPACE_DIRECTORY", "")
    folder = Path(options.output) if options.output else Path(workspace, "ml", "bundled")
    try:
        console.print("[dim]answering the test set in fp32 and INT8 ...[/]")
        with Progress("answering the test set", console=console):
            finished = open_finished(user_path(options.run))
            small = adopt(finished, folder, options.min_accuracy)
    except (AdoptionError, AccuracyError, FinishedError) as exc:
        console.print(f"[red]Refused:[/] {escape(str(exc))}", highlight=False, soft_wrap=True)
        return REFUSED
    except UNUSABLE as exc:
        console.print(
            f"[red]{escape(str(exc))}[/]\nNothing was written.", highlight=False, soft_wrap=True
        )
        return BAD_INPUT
    metadata, accuracy = finished.artifact.metadata, finished.evaluation.accuracy
    console.print(
        f"Adopted {metadata.name} {metadata.version[:12]}: {accuracy:.2%} in fp32, "
        f"{small.evaluation.accuracy:.2%} in INT8\n  {folder}\n"
        "Review it, then commit: git add ml/bundled && git commit",
        highlight=False,
        soft_wrap=True,
    )
    return 0


def _options() -> argparse.ArgumentParser:
    parser = command_parser("//ml/bundled:adopt", __doc__)
    add = parser.add_argument
    add("run", help="run folder of a finished training")
    add("--min-accuracy", type=float, default=MIN_ACCURACY, help="default: 0.94")
    add("--output", help="output folder (default: ml/bundled of this workspace)")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], terminal()))
