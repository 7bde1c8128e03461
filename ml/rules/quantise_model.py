"""Writes the INT8 sibling of an exported artifact, or refuses to."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common.files import write_whole
from ml.artifact.artifact import ArtifactError
from ml.artifact.quantise import AccuracyError, QuantisationReport, quantise_artifact
from ml.data.cifar10 import DatasetError
from ml.runs.loading import calibration_images, held_out, load_config, make_data

REFUSALS = (AccuracyError, ArtifactError, DatasetError)


def metrics(report: QuantisationReport) -> dict[str, Any]:
    """What the small model can do and what it cost."""
    return {
        "test": report.evaluation.as_dict(),
        "accuracy_lost": report.accuracy_lost,
        "model_version": report.metadata.version,
        "model_bytes": report.size_bytes,
    }


def main(arguments: Sequence[str]) -> None:
    """Entry point of the action."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("config", "model", "train", "test", "output", "metrics"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    options = parser.parse_args(arguments)
    data = make_data(load_config(options.config), options.train.parent)
    test = held_out(data)
    report = quantise_artifact(
        options.model,
        options.output,
        calibration_images=calibration_images(data),
        images=test.images,
        labels=test.labels,
    )
    write_whole(options.metrics, json.dumps(metrics(report), indent=2) + "\n")
