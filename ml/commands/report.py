"""Redraws the report of a finished run and writes its model card.

  bazel run //ml:report -- runs/<folder>

Writes plots/, mistakes/, report.html, model_card.html and MODEL_CARD.md into the run folder, from
model.onnx: the test set is evaluated again, and the accuracy must match the model's metadata.

Exit codes: 0 written, 1 the model does not reproduce its metrics, 2 bad input.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.markup import escape

from common.command_line import command_parser
from common.files import user_path, write_whole
from common.terminal import Progress, terminal
from ml.artifact.artifact import Artifact, ArtifactError, load_artifact
from ml.artifact.evaluation import Evaluation, Labelled, evaluate, loss_interval
from ml.data.cifar10 import DatasetError
from ml.report.model_card import Facts, Small, to_html, to_markdown
from ml.report.page import draw_run
from ml.report.plots import Rows
from ml.runs.datasets import check_same
from ml.runs.folder import read_rows
from ml.runs.loading import Trained, TrainedError, labelled_test, open_trained
from ml.stages import augmented_samples

_SCORE_TOLERANCE = 1e-3  # accuracy; another CPU may change a few of 10,000 predictions
_SMALL = "model.int8.onnx"

# Errors that `open_finished` raises for unusable runs, datasets or disks.
UNUSABLE = (TrainedError, ArtifactError, DatasetError, OSError)


class FinishedError(ValueError):
    """The run's files are inconsistent; the message says which."""


@dataclass(frozen=True)
class Finished:
    """A finished run and its model.

    Attributes:
        parity: max |difference| in probability between model.onnx and the network in PyTorch.
        small: the INT8 sibling, if the run has one, with its own evaluation.
    """

    trained: Trained
    artifact: Artifact
    test: Labelled
    probabilities: NDArray[np.float32]
    evaluation: Evaluation
    parity: float
    small: Small | None

    @property
    def rows(self) -> Rows:
        """The metrics of each epoch."""
        return read_rows(self.trained.run.metrics)


def open_finished(path: Path) -> Finished:
    """Loads a run's model and evaluates the test set.

    Raises:
        TrainedError: the run is not finished.
        ArtifactError: a model file is damaged or missing.
        DatasetMismatch: the run's dataset is not the one that the model was trained on.
        FinishedError: the model does not reproduce the accuracy in its metadata.
    """
    trained = open_trained(path)
    run = trained.run
    if not run.is_finished or not run.model.is_file():
        raise TrainedError(f"{path} has not finished: continue it with resume={path}")
    artifact = load_artifact(run.model)
    check_same(artifact.metadata, trained.data)
    test = labelled_test(trained.data)
    probabilities = artifact.predict(test.images).probabilities
    evaluation = checked_scores(artifact, probabilities, test, run.model)
    reference = trained.answer(test.images)
    return Finished(
        trained,
        artifact,
        test,
        probabilities,
        evaluation,
        float(np.abs(probabilities - reference).max()),
        _small(run.path, test),
    )


def checked_scores(
    artifact: Artifact, probabilities: NDArray[np.float32], test: Labelled, path: Path
) -> Evaluation:
    """Evaluates predictions and compares them with the metadata.

    Raises:
        FinishedError: they differ.
    """
    evaluation = evaluate(probabilities, test.labels, artifact.metadata.classes)
    told = artifact.metadata.test_metrics.accuracy
    if abs(told - evaluation.accuracy) > _SCORE_TOLERANCE:
        raise FinishedError(
            f"{path} is right on {evaluation.accuracy:.2%} of the test images and says "
            f"{told:.2%}: was it tested on another dataset?"
        )
    return evaluation


def card_facts(
    finished: Finished, reproduce: str, small: Small | None = None, license: str | None = None
) -> Facts:
    """The facts for a model card; `small` if not the run's own."""
    metadata = finished.artifact.metadata
    run = finished.trained.run
    return Facts(
        metadata=metadata,
        evaluation=finished.evaluation,
        loss_interval=loss_interval(finished.probabilities, finished.test.labels, metadata.classes),
        parity=finished.parity,
        parameters=finished.trained.parameters,
        size_bytes=run.model.stat().st_size,
        training=finished.trained.training,
        rows=finished.rows,
        config=run.config.read_text(encoding="utf-8"),
        reproduce=reproduce,
        small=small or finished.small,
        license=license,
    )


def small_of(path: Path, test: Labelled) -> Small:
    """An INT8 artifact with its evaluation.

    Raises:
        ArtifactError: the file is damaged.
        FinishedError: it does not reproduce the accuracy in its metadata.
    """
    artifact = load_artifact(path)
    answers = artifact.predict(test.images).probabilities
    evaluation = checked_scores(artifact, answers, test, path)
    return Small(artifact.metadata, evaluation, path.stat().st_size)


def _small(folder: Path, test: Labelled) -> Small | None:
    found = [p for p in (folder / _SMALL, folder / "export" / _SMALL) if p.is_file()]
    return small_of(found[0], test) if found else None


REFUSED, BAD_INPUT = 1, 2  # exit codes


def write_all(finished: Finished, license: str | None = None) -> list[str]:
    """Plots, report and both forms of the card; returns their paths.

    Args:
        license: of the model, as named by the Hugging Face Hub.
    """
    run = finished.trained.run
    draw_run(
        run,
        finished.artifact.metadata,
        finished.evaluation,
        test=finished.test,
        probabilities=finished.probabilities,
        parameters=finished.trained.parameters,
        augmented=augmented_samples(finished.trained.data),
        answer=lambda images: finished.artifact.predict(images).probabilities,
    )
    command = f"./tools/bazel run //ml:train -- --rerun runs/{run.path.name}"
    card = card_facts(finished, command, license=license)
    page, text = run.path / "model_card.html", run.path / "MODEL_CARD.md"
    write_whole(page, to_html(card))
    write_whole(text, to_markdown(card))
    return [str(path) for path in (run.plots, run.mistakes, run.report, page, text)]


def main(arguments: Sequence[str], console: Console) -> int:
    """Entry point of the command."""
    options = _options().parse_args(arguments)
    try:
        console.print("[dim]answering the test set ...[/]")
        with Progress("answering the test set", console=console) as progress:
            finished = open_finished(user_path(options.run))
            progress.begin("drawing")
            paths = write_all(finished, options.license)
        for path in paths:
            console.print(f"  {path}", highlight=False, soft_wrap=True)
    except FinishedError as exc:
        console.print(f"[red]Refused:[/] {escape(str(exc))}", highlight=False, soft_wrap=True)
        return REFUSED
    except UNUSABLE as exc:
        console.print(
            f"[red]{escape(str(exc))}[/]\nNothing was written.", highlight=False, soft_wrap=True
        )
        return BAD_INPUT
    return 0


def _options() -> argparse.ArgumentParser:
    parser = command_parser("//ml:report", __doc__)
    parser.add_argument("run", help="run folder of a finished training")
    parser.add_argument(
        "--license",
        help="the model's licence for the card's metadata, as named by the Hub: apache-2.0, mit, …",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], terminal()))
