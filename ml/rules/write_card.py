"""Writes the card of a model built by Bazel."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from common.files import write_whole
from common.intervals import Interval
from ml.artifact.artifact import ArtifactError, load_artifact
from ml.artifact.evaluation import Evaluation
from ml.report.model_card import Facts, to_html

REFUSALS = (ArtifactError,)


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("model", "metrics", "history", "config", "output"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--reproduce", required=True)
    options = parser.parse_args(arguments)
    metrics = json.loads(options.metrics.read_text(encoding="utf-8"))
    facts = Facts(
        metadata=load_artifact(options.model, threads=1).metadata,
        evaluation=Evaluation.from_json(json.dumps(metrics["test"])),
        loss_interval=Interval(*metrics["intervals"]["loss"]),
        parity=metrics["parity"],
        parameters=metrics["parameters"],
        size_bytes=metrics["model_bytes"],
        training=metrics,
        rows=json.loads(options.history.read_text(encoding="utf-8"))["rows"],
        config=options.config.read_text(encoding="utf-8"),
        reproduce=options.reproduce,
    )
    write_whole(options.output, to_html(facts))
