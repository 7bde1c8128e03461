"""Evaluates trained weights on the test set and exports them as an artifact if they pass the
gates.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from common.files import write_whole
from ml import stages
from ml.artifact.artifact import ArtifactError
from ml.artifact.evaluation import accuracy_interval, loss_interval, macro_f1_interval
from ml.artifact.export import ParityError
from ml.data.cifar10 import DatasetError
from ml.runs.loading import TrainedError, labelled_test, open_trained
from ml.runs.provenance import UNKNOWN

REFUSALS = (ArtifactError, DatasetError, ParityError, TrainedError)


def main(arguments: Sequence[str]) -> None:
    """The action's entry point; config.yaml is beside the weights, test.bin beside train.bin."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("weights", "history", "train", "model", "metrics", "drift-reference"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    options = parser.parse_args(arguments)
    history = json.loads(options.history.read_text(encoding="utf-8"))
    trained = open_trained(options.weights, dataset=options.train.parent)
    # A new commit alone must not change the output: see seal_model.py.
    trained = replace(trained, training={**history, "git_revision": UNKNOWN})
    test = labelled_test(trained.data)
    answers = trained.answer(test.images)
    report = stages.export(trained, options.model, test, answers)
    evaluation = report.evaluation
    # Metrics with 95 % intervals and their context; independent of the clock.
    metrics = {
        **{key: value for key, value in history.items() if key not in ("lock_digest", "rows")},
        "test": evaluation.as_dict(),
        "intervals": {
            "accuracy": accuracy_interval(evaluation),
            "loss": loss_interval(answers, test.labels, trained.data.classes),
            "macro_f1": macro_f1_interval(evaluation),
        },
        "model_version": report.metadata.version,
        "model_bytes": report.size_bytes,
        "parity": float(f"{report.parity:.2g}"),
        "simplification": report.simplification,
    }
    _write_json(options.metrics, metrics)
    _write_json(options.drift_reference, asdict(report.metadata.drift_reference))


def _write_json(path: Path, value: Any) -> None:
    write_whole(path, json.dumps(value, indent=2, allow_nan=False) + "\n")
