"""How good a trained network is on the test set: ``bazel run //ml:evaluate -- RUN_FOLDER``.

Writes RUN_FOLDER/evaluation: the answers, every score, and tables to plot. The test set is read
once for a network: a second call shows what the first one found.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from ml.data.cifar10 import DatasetError
from ml.evaluation import Evaluation, evaluate
from ml.files import write_whole
from ml.pipeline.evaluated import Evaluated, figures, read_evaluated
from ml.pipeline.layout import enter_stage, is_stage
from ml.pipeline.trained_run import RunError, TrainedRun, open_trained
from tools.progress import Progress

BAD_INPUT = 2


def evaluate_run(run: TrainedRun) -> Evaluated:
    """Answers the test set and writes what came out into the run folder.

    Raises:
        DatasetError: the test set cannot be read.
    """
    test = run.data.test_images()
    with torch.inference_mode():
        parts = [torch.softmax(run.network(images.cpu()), dim=1) for images, _ in test]
    probabilities: NDArray[np.float32] = torch.cat(parts).float().numpy()
    scores = evaluate(probabilities, test.labels.cpu().numpy(), run.data.classes)
    evaluated = Evaluated(probabilities, scores)
    evaluated.write(run.folder)
    return evaluated


def print_scores(scores: Evaluation, console: Console) -> None:
    """The scores of the whole and of each class."""
    table = Table(title=f"{scores.accuracy:.2%} of {scores.images:,} test images right")
    for name in ("class", "F1", "precision", "recall", "images"):
        table.add_column(name, justify="left" if name == "class" else "right")
    columns = (scores.classes, scores.f1, scores.precision, scores.recall, scores.support)
    for name, f1, precision, recall, images in zip(*columns, strict=True):
        table.add_row(name, f"{f1:.3f}", f"{precision:.3f}", f"{recall:.3f}", f"{images:,}")
    console.print(table)
    console.print(
        f"macro F1 {scores.macro_f1:.4f}, loss {scores.loss:.4f}, "
        f"calibration error {scores.calibration_error:.4f}",
        highlight=False,
    )


def main(arguments: Sequence[str], console: Console) -> int:
    """Evaluates the network in a run folder."""
    options = _parser().parse_args(arguments)
    if is_stage():
        enter_stage()
    else:  # where the command was typed
        os.chdir(os.environ.get("BUILD_WORKING_DIRECTORY") or ".")
    try:
        run = open_trained(options.run)
        evaluated = read_evaluated(run.folder)
        if evaluated:
            console.print("This network has answered the test set before; it found then:")
        with Progress("answering the test set", console=console):
            evaluated = evaluated or evaluate_run(run)
    except (DatasetError, RunError) as exc:
        print(exc, file=sys.stderr)
        return BAD_INPUT
    if options.metrics:
        text = json.dumps(figures(evaluated.evaluation), indent=2) + "\n"
        write_whole(options.metrics, text)
    print_scores(evaluated.evaluation, console)
    console.print(str(run.folder.path / "evaluation"), highlight=False, soft_wrap=True)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bazel run //ml:evaluate --",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", type=Path, help="a run folder, such as runs/2026-01-01_12-00-00_x")
    parser.add_argument("--metrics", type=Path, metavar="FILE", help="also write the main scores")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], Console()))
