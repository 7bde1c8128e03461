"""Checks a model's behaviour (invariance, weakest class, calibration, garbage input) and its
dataset.

The dataset is the model's own: found by the config.yaml of its run folder, or CIFAR-10 if it was
trained on that; a model is never judged by other data.

Exit codes: 0 every check passed, 2 the input cannot be used, 3 a check failed.

  bazel run //ml:behaviour                                       # the bundled model
  bazel run //ml:behaviour -- runs/<folder> --images 2000
  bazel run //ml:behaviour -- model.onnx --accuracy 0.5 --class-recall 0.2
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import fields

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from common.command_line import command_parser, count
from common.files import user_path
from common.terminal import Progress, terminal
from ml.artifact.artifact import Artifact, ArtifactError, load_artifact
from ml.artifact.evaluation import Labelled
from ml.behaviour.checks import (
    BehaviourLimits,
    Check,
    check_balance,
    check_garbage,
    check_invariance,
    check_scores,
)
from ml.behaviour.report import DataFacts, print_checks, print_data, write_findings
from ml.data.cifar10 import DatasetError
from ml.data.duplicates import class_counts, find_duplicates
from ml.data.fetch import FetchError
from ml.runs.datasets import Dataset, dataset_of_file
from ml.runs.models import model_path

FAILED, BAD_INPUT = 3, 2
_BATCH = 200


def main(arguments: Sequence[str], console: Console) -> int:
    options = _options().parse_args(arguments)
    limits = BehaviourLimits(
        **{field.name: getattr(options, field.name) for field in fields(BehaviourLimits)}
    )
    try:
        path = model_path(options.model or options.run)
        artifact = load_artifact(path, threads=options.threads)
        with Progress("reading the images", console=console) as progress:
            dataset = dataset_of_file(path, artifact.metadata)
            test = dataset.read("test")
            checks = check_model(
                artifact, test, options.images, limits, progress, mirrored=dataset.mirrored
            )
            facts = None if options.no_data else describe_data(dataset, test, progress)
            if facts:
                checks.append(check_balance((facts.train_counts, facts.test_counts), limits))
        print_checks(artifact.metadata, checks, console)
        if facts:
            print_data(facts, console)
        for path in write_findings(artifact.metadata, checks, facts, user_path(options.out)):
            console.print(str(path), highlight=False, soft_wrap=True)
    except (ArtifactError, DatasetError, FetchError, OSError) as exc:
        console.print(str(exc), style="red", markup=False, highlight=False, soft_wrap=True)
        return BAD_INPUT
    failed = [check.name for check in checks if not check.passed]
    console.print(
        f"failed: {', '.join(failed)}" if failed else f"{len(checks)} checks passed",
        style="bold red" if failed else "green",
    )
    return FAILED if failed else 0


def check_model(
    artifact: Artifact,
    test: Labelled,
    images: int,
    limits: BehaviourLimits,
    progress: Progress,
    *,
    mirrored: bool = True,
) -> list[Check]:
    """Metrics on all test images of the model's dataset; invariance on the first `images` of them,
    mirrored only if training does so; then garbage.
    """
    metadata = artifact.metadata
    part = test.images[:images]
    progress.begin("predicting", len(test.images) + 7 * len(part) + 600)

    def predict(batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        parts = []
        for start in range(0, len(batch), _BATCH):
            parts.append(artifact.predict(batch[start : start + _BATCH]).probabilities)
            progress.advance(len(parts[-1]))
        return np.concatenate(parts)

    probabilities = predict(test.images)
    claimed = metadata.test_metrics
    comparable = claimed.accuracy if claimed.images == len(test.images) else None
    return [
        *check_scores(probabilities, test, metadata.classes, limits, comparable),
        *check_invariance(predict, part, probabilities[: len(part)], limits, mirrored=mirrored),
        check_garbage(predict, metadata.input_size, limits),
    ]


def describe_data(dataset: Dataset, test: Labelled, progress: Progress) -> DataFacts:
    """Class balance and duplicates of a dataset whose test part has been read."""
    train, classes = dataset.read("train"), dataset.classes
    progress.begin("comparing test with training images", 1.0)
    found = find_duplicates(train, test, progress.update)
    counts = [class_counts(part, len(classes)) for part in (train, test)]
    return DataFacts(classes, train, test, counts[0], counts[1], found)


def _options() -> argparse.ArgumentParser:
    parser = command_parser("//ml:behaviour", __doc__)
    add = parser.add_argument
    named = parser.add_mutually_exclusive_group()
    about = "model.onnx or a run folder (default: the bundled model)"
    named.add_argument("run", nargs="?", help=about)
    named.add_argument("--model", help="the same, as for //ml:drift")
    add("--images", type=count, default=2000, help="test images for invariance (%(default)s)")
    add("--no-data", action="store_true", help="skip the dataset's checks")
    add("--out", default="behaviour-report", help="folder for results (%(default)s)")
    add("--threads", type=int, default=0, help="inference threads (0: one per core)")
    limits = parser.add_argument_group("limit; the default suits a model with 94 % accuracy")
    for field in fields(BehaviourLimits):
        kind = "most" if field.name in ("calibration_error", "garbage") else "least"
        limits.add_argument(
            f"--{field.name.replace('_', '-')}",
            type=float,
            metavar="SHARE",
            default=field.default,
            help=f"at {kind} (%(default)s)",
        )
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], terminal(130)))
