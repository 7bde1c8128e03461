"""A finished run with predictions for the test set, for the report and the model card."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ml.artifact.artifact import Artifact, ArtifactError, load_artifact
from ml.artifact.evaluation import Evaluation, Labelled, evaluate, loss_interval
from ml.data.cifar10 import DatasetError
from ml.report.model_card import Facts, Small
from ml.report.plots import Rows
from ml.runs.datasets import check_same
from ml.runs.folder import read_rows
from ml.runs.loading import Trained, TrainedError, labelled_test, open_trained

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
