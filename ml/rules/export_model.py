"""Evaluates trained weights on the test set and exports them as an artifact, or refuses to."""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from common.files import write_whole
from ml.artifact.artifact import ArtifactError
from ml.artifact.evaluation import accuracy_interval, loss_interval, macro_f1_interval
from ml.artifact.export import (
    ExportReport,
    ParityError,
    Provenance,
    export_artifact,
    torch_probabilities,
)
from ml.data.cifar10 import DatasetError
from ml.runs.folder import config_digest
from ml.runs.loading import (
    WeightsError,
    held_out,
    load_config,
    load_weights,
    make_data,
    make_network,
)
from ml.runs.provenance import UNKNOWN, lock_digest

REFUSALS = (ArtifactError, DatasetError, ParityError, WeightsError)


def metrics(
    cfg: Any, history: Mapping[str, Any], report: ExportReport, loss: Sequence[float], size: int
) -> dict[str, Any]:
    """Scores with their 95 % intervals and what they are scores of; nothing that depends on the
    clock."""
    evaluation = report.evaluation
    return {
        "name": cfg.name,
        "seed": cfg.seed,
        **{key: value for key, value in history.items() if key != "rows"},
        "test": evaluation.as_dict(),
        "intervals": {
            "accuracy": accuracy_interval(evaluation),
            "loss": tuple(loss),
            "macro_f1": macro_f1_interval(evaluation),
        },
        "parameters": size,
        "model_version": report.metadata.version,
        "model_bytes": report.size_bytes,
        "parity": float(f"{report.parity:.2g}"),
        "simplification": report.simplification,
    }


def main(arguments: Sequence[str]) -> None:
    """Entry point of the action."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("config", "weights", "history", "train", "test", "model", "metrics"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--drift-reference", type=Path, required=True)
    options = parser.parse_args(arguments)
    cfg, history = load_config(options.config), json.loads(options.history.read_text())
    data = make_data(cfg, options.train.parent)
    network = make_network(cfg, len(data.classes), load_weights(options.weights))
    test = held_out(data)
    answers = torch_probabilities(network, test.images, data.mean, data.std)
    report = export_artifact(
        network,
        options.model,
        name=cfg.name,
        classes=data.classes,
        mean=data.mean,
        std=data.std,
        provenance=Provenance(
            git_revision=UNKNOWN,  # a commit alone must change nothing: see seal_model.py
            config_digest=config_digest(cfg),
            dataset_digest=data.digest,
            lock_digest=lock_digest(),
            device=history["device"],
            precision=history["precision"],
        ),
        images=test.images,
        labels=test.labels,
        probabilities=answers,
    )
    parameters = sum(weight.numel() for weight in network.parameters())
    loss = loss_interval(answers, test.labels, data.classes)
    _write_json(options.metrics, metrics(cfg, history, report, loss, parameters))
    _write_json(options.drift_reference, asdict(report.metadata.drift_reference))


def _write_json(path: Path, value: Any) -> None:
    write_whole(path, json.dumps(value, indent=2, allow_nan=False) + "\n")
