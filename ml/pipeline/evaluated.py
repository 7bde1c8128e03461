"""The folder ``evaluation`` of a run: what its network answered to the test set, and the scores."""

import hashlib
import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ml.evaluation import Evaluation
from ml.files import write_whole
from ml.pipeline.tables import csv_text
from ml.run_folder import RunFolder


@dataclass(frozen=True)
class Evaluated:
    """Answers and scores.

    Attributes:
        probabilities: (N, K) float32, in the order of the test set.
    """

    probabilities: NDArray[np.float32]
    evaluation: Evaluation

    def write(self, run: RunFolder) -> None:
        """Writes the folder; the name of the network last, so that a part is never taken for the
        whole."""
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
    """What an earlier evaluation of this very network found; None if there was none."""
    folder = run.path / "evaluation"
    made_of = folder / "network.sha256"
    if not made_of.is_file() or made_of.read_text(encoding="utf-8") != _digest(run):
        return None
    text = (folder / "evaluation.json").read_text(encoding="utf-8")
    return Evaluated(np.load(folder / "probabilities.npy"), Evaluation.from_json(text))


def figures(evaluation: Evaluation) -> dict[str, Any]:
    """The few numbers that people compare."""
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
