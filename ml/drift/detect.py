"""Compares live images or logged predictions with a model's drift reference.

Exit codes: 0 no drift, 2 the input cannot be used, 3 drift, 4 too few images.

  bazel run //ml:drift -- --images incoming/             # images for the model to classify
  bazel run //ml:drift -- --predictions answers.jsonl    # responses of /predict, one JSON per line
  bazel run //ml:drift -- --test-set --corruption noise:3
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from common.command_line import command_parser, count, share
from common.files import user_path
from common.images import MAX_PIXELS, Codec
from common.model.drift import DEFAULT_LIMITS, DriftLimits, compare
from common.terminal import Progress, terminal
from ml.artifact.artifact import Artifact, ArtifactError, load_artifact
from ml.data.cifar10 import DatasetError
from ml.data.fetch import FetchError
from ml.drift.corruptions import ALIASES, CORRUPTIONS, CorruptionError, corrupt, parse_corruption
from ml.drift.observed import (
    InputError,
    Observed,
    counted,
    image_files,
    observe,
    read_images,
    read_log,
)
from ml.drift.report import Comparison, print_comparison, write_comparison
from ml.runs.datasets import Dataset, dataset_of, dataset_of_file
from ml.runs.models import model_path

EXIT_CODES = {"no drift": 0, "drift": 3, "too little evidence": 4}
BAD_INPUT = 2


def main(arguments: Sequence[str], console: Console) -> int:
    options = _options().parse_args(arguments)
    limits = DriftLimits(options.false_alarm_rate, options.psi, options.ks, options.fewest)
    try:
        corruption = parse_corruption(options.corruption) if options.corruption else None
        artifact = load_artifact(model_path(options.model), threads=options.threads)
        seen = _observed(options, artifact, corruption, console)
        reference = artifact.metadata.drift_reference
        window = counted(reference, seen.predictions, seen.signals)
        report = compare(reference, window, limits)
        comparison = Comparison(
            artifact.metadata, seen.source, window, report, limits, seen.problems
        )
        print_comparison(comparison, console)
        for path in write_comparison(comparison, user_path(options.out)):
            console.print(str(path), highlight=False, soft_wrap=True)
    except (ArtifactError, CorruptionError, DatasetError, FetchError, InputError, OSError) as exc:
        console.print(str(exc), style="red", markup=False, highlight=False, soft_wrap=True)
        return BAD_INPUT
    return EXIT_CODES[comparison.report.verdict]


def _observed(
    options: argparse.Namespace,
    artifact: Artifact,
    corruption: tuple[str, int] | None,
    console: Console,
) -> Observed:
    if options.predictions:
        path = user_path(options.predictions)
        return read_log(path, artifact.metadata.classes, artifact.metadata.version)
    with Progress("reading the images", console=console) as progress:
        if options.images:
            images, source, problems = _folder(options, artifact, progress)
        else:
            dataset = _dataset(options, artifact)
            images, problems = dataset.read("test").images, ()
            source = f"{dataset.name} test images"
        images = _limited(images, options.limit, options.seed)
        if corruption:
            images = corrupt(images, *corruption, seed=options.seed)
            source += f", {corruption[0]} of severity {corruption[1]}"
        progress.begin("predicting", len(images))
        return replace(observe(artifact, images, source, progress.advance), problems=problems)


def _dataset(options: argparse.Namespace, artifact: Artifact) -> Dataset:
    """The model's own dataset, or CIFAR-10 if it was requested and the model was trained on it."""
    if options.cifar10_test:
        return dataset_of(artifact.metadata, None)
    return dataset_of_file(model_path(options.model), artifact.metadata)


def _folder(
    options: argparse.Namespace, artifact: Artifact, progress: Progress
) -> tuple[NDArray[np.uint8], str, Sequence[str]]:
    folder = user_path(options.images)
    files = image_files(folder)
    metadata = artifact.metadata
    codec = Codec(metadata.input_size, MAX_PIXELS, metadata.resize)
    good, problems = [], []
    progress.begin("reading", len(files))
    for path, pixels in read_images(files, codec):
        progress.advance()
        if isinstance(pixels, str):
            problems.append(f"{path.relative_to(folder)}: {pixels}")
        else:
            good.append(pixels)
    if not good:
        raise InputError(f"{folder}: none of {len(files)} image files can be read ({problems[0]})")
    return np.stack(good), str(folder), problems


def _limited(images: NDArray[np.uint8], most: int | None, seed: int) -> NDArray[np.uint8]:
    """A random sample of at most `most` images."""
    if most is None or most >= len(images):
        return images
    chosen = np.random.default_rng(seed).choice(len(images), most, replace=False)
    return images[np.sort(chosen)]


def _options() -> argparse.ArgumentParser:
    parser = command_parser("//ml:drift", __doc__)
    add = parser.add_argument
    add("--model", help="model.onnx or a run folder (default: the bundled model)")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--images", metavar="FOLDER", help="folder of image files, searched recursively"
    )
    what.add_argument("--predictions", metavar="FILE", help="JSON lines of the service's responses")
    what.add_argument(
        "--test-set", action="store_true", help="use the test images of the model's dataset"
    )
    what.add_argument(
        "--cifar10-test", action="store_true", help="the same, but the dataset must be CIFAR-10"
    )
    names = ", ".join([*CORRUPTIONS, *ALIASES])
    add("--corruption", metavar="KIND:1-5", help=f"corrupt the images: {names}")
    add("--limit", type=count, help="maximum number of images, sampled at random")
    add("--out", default="drift-report", help="folder for results (%(default)s)")
    defaults = DEFAULT_LIMITS
    add(
        "--false-alarm-rate",
        type=share,
        default=defaults.false_alarm_rate,
        help="false-alarm rate per window, over all statistics (%(default)s)",
    )
    add("--psi", type=float, default=defaults.psi, help="smallest relevant PSI (%(default)s)")
    add("--ks", type=float, default=defaults.ks, help="smallest relevant KS distance (%(default)s)")
    add(
        "--fewest",
        type=count,
        default=defaults.fewest_images,
        help="minimum number of images (%(default)s)",
    )
    add("--threads", type=int, default=0, help="inference threads (0: one per core)")
    add("--seed", type=int, default=0)
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], terminal()))
