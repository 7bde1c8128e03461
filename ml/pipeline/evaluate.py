"""Evaluates a trained network on the test set: ``bazel run //ml:evaluate -- RUN_FOLDER``.

Writes RUN_FOLDER/evaluation: predictions, all metrics, and tables for plots. A network is tested
once: a second call shows the first result.
"""

import argparse
import hashlib
import io
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from common.command_line import command_parser
from common.files import user_path, write_whole
from common.terminal import Progress
from ml.artifact.evaluation import Evaluation, evaluate
from ml.data.cifar10 import DatasetError
from ml.pipeline.layout import csv_text, enter_stage, is_stage
from ml.runs.folder import RunFolder
from ml.runs.loading import Trained, TrainedError, labelled_test, open_trained


@dataclass(frozen=True)
class Evaluated:
    """Predictions and metrics.

    Attributes:
        probabilities: (N, K) float32, in the order of the test set.
    """

    probabilities: NDArray[np.float32]
    evaluation: Evaluation

    def write(self, run: RunFolder) -> None:
        """Writes the folder; the network's name last, so that an incomplete folder is
        recognised.
        """
        folder, scores = run.path / "evaluation", self.evaluation
        answers = io.BytesIO()
        np.save(answers, self.probabilities)
        write_whole(folder / "probabilities.npy", answers.getvalue())
        write_whole(folder / "evaluation.json", scores.to_json())
        write_whole(folder / "classes.csv", _classes(scores))
        write_whole(folder / "confusion.csv", _confusion(scores))
        write_whole(folder / "reliability.csv", _reliability(scores))
        write_whole(folder / "network.sha256", _digest(run))


def read_evaluated(run: RunFolder) -> Evaluated | None:
    """The result of an earlier evaluation of this network; None if there is none."""
    folder = run.path / "evaluation"
    made_of = folder / "network.sha256"
    if not made_of.is_file() or made_of.read_text(encoding="utf-8") != _digest(run):
        return None
    text = (folder / "evaluation.json").read_text(encoding="utf-8")
    return Evaluated(np.load(folder / "probabilities.npy"), Evaluation.from_json(text))


def figures(evaluation: Evaluation) -> dict[str, Any]:
    names = ("images", "accuracy", "macro_f1", "loss", "calibration_error")
    return {
        **{name: round(getattr(evaluation, name), 6) for name in names},
        "worst_class_f1": round(min(evaluation.f1), 6),
    }


def _digest(run: RunFolder) -> str:
    return hashlib.sha256(run.config.read_bytes() + run.weights.read_bytes()).hexdigest() + "\n"


def _classes(e: Evaluation) -> str:
    rows = zip(e.classes, e.f1, e.precision, e.recall, e.support, strict=True)
    return csv_text(["class", "f1", "precision", "recall", "images"], rows)


def _confusion(e: Evaluation) -> str:
    return csv_text(
        ["actual", "predicted", "images", "share"],
        (
            (actual, predicted, images, images / max(1, sum(row)))
            for actual, row in zip(e.classes, e.confusion, strict=True)
            for predicted, images in zip(e.classes, row, strict=True)
        ),
    )


def _reliability(e: Evaluation) -> str:
    rows = zip(e.bin_confidence, e.bin_accuracy, e.confidence_histogram, strict=True)
    filled = (row for row in rows if row[2])
    return csv_text(["confidence", "accuracy", "images"], filled)


BAD_INPUT = 2


def evaluate_run(trained: Trained) -> Evaluated:
    """Evaluates the test set and writes the results into the run folder.

    Raises:
        DatasetError: the test set cannot be read.
    """
    test = labelled_test(trained.data)
    probabilities = trained.answer(test.images)
    evaluated = Evaluated(probabilities, evaluate(probabilities, test.labels, trained.data.classes))
    evaluated.write(trained.run)
    return evaluated


def print_scores(scores: Evaluation, console: Console) -> None:
    """Prints metrics overall and by class."""
    table = Table(title=f"{scores.accuracy:.2%} of {scores.images:,} test images right")
    for name in ("class", "F1", "precision", "recall", "images"):
        table.add_column(name, justify="left" if name == "class" else "right")
    columns = (scores.classes, scores.f1, scores.precision, scores.recall, scores.support)
    for name, f1, precision, recall, images in zip(*columns, strict=True):
        table.add_row(name, f"{f1:.3f}", f"{precision:.3f}", f"{recall:.3f}", f"{images:,}")
    console.print(table, markup=False)  # class names are no markup
    console.print(
        f"macro F1 {scores.macro_f1:.4f}, loss {scores.loss:.4f}, "
        f"calibration error {scores.calibration_error:.4f}",
        highlight=False,
    )


def main(arguments: Sequence[str], console: Console) -> int:
    options = _parser().parse_args(arguments)
    if is_stage():
        enter_stage()
    else:  # where the command was called
        os.chdir(user_path("."))
    try:
        trained = open_trained(options.run)
        evaluated = read_evaluated(trained.run)
        if evaluated:
            console.print("This network was evaluated on the test set before, with the result:")
        with Progress("answering the test set", console=console):
            evaluated = evaluated or evaluate_run(trained)
    except (DatasetError, TrainedError) as exc:
        print(exc, file=sys.stderr)
        return BAD_INPUT
    if options.metrics:
        text = json.dumps(figures(evaluated.evaluation), indent=2) + "\n"
        write_whole(options.metrics, text)
    print_scores(evaluated.evaluation, console)
    console.print(str(trained.run.path / "evaluation"), highlight=False, soft_wrap=True)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("//ml:evaluate", __doc__)
    parser.add_argument("run", type=Path, help="a run folder, such as runs/2026-01-01_12-00-00_x")
    parser.add_argument("--metrics", type=Path, metavar="FILE", help="also write the main scores")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], Console()))
