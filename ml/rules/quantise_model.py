"""Writes the INT8 sibling of an exported artifact if it passes the gate."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from common.files import write_whole
from ml import stages
from ml.artifact.artifact import ArtifactError
from ml.artifact.quantise import AccuracyError
from ml.data.checks import open_data
from ml.data.cifar10 import DatasetError
from ml.runs.folder import RunFolder
from ml.runs.loading import labelled_test

REFUSALS = (AccuracyError, ArtifactError, DatasetError)


def main(arguments: Sequence[str]) -> None:
    """The action's entry point; test.bin is beside train.bin."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("config", "model", "train", "output", "metrics"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    options = parser.parse_args(arguments)
    data = open_data(RunFolder(options.config.parent).load_config(), options.train.parent)
    report = stages.quantise(data, options.model, options.output, labelled_test(data))
    metrics = {
        "test": report.evaluation.as_dict(),
        "accuracy_lost": report.accuracy_lost,
        "model_version": report.metadata.version,
        "model_bytes": report.size_bytes,
    }
    write_whole(options.metrics, json.dumps(metrics, indent=2) + "\n")
