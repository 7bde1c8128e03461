"""The stage `export`: from trained weights and the test set's answers to a verified model.onnx, the
plots, the report and the summary.

ONNX is compared with the answers that `evaluate` wrote, so PyTorch does not answer a second time.
"""

import json
import sys
from typing import Any

import numpy as np
from rich.console import Console

from common.files import write_whole
from common.model.artifact import ArtifactError
from common.terminal import Progress
from ml.artifact.export import ExportReport, ParityError, Provenance, export_artifact
from ml.data.cifar10 import DatasetError
from ml.pipeline.evaluate import read_evaluated
from ml.pipeline.layout import METRICS, RUN, TrainingRecord, enter_stage
from ml.report.page import draw_run
from ml.runs.folder import config_digest
from ml.runs.loading import RunError, TrainedRun, open_trained
from ml.runs.metrics import read_rows

BAD_INPUT = 2


def export(run: TrainedRun) -> ExportReport:
    """Runs the stage on a run folder that has been evaluated.

    Raises:
        RunError: it has not been.
        ParityError, ArtifactError: the model is refused, nothing was written.
    """
    evaluated = read_evaluated(run.folder)
    if evaluated is None:
        raise RunError(f"{run.folder.path} is not evaluated yet: run the stage evaluate")
    record = TrainingRecord.read(run.folder.path / "training.json")
    test = run.data.test_images()
    images = np.ascontiguousarray(test.pixels.permute(0, 2, 3, 1).cpu().numpy())
    labels = test.labels.cpu().numpy()
    report = export_artifact(
        run.network,
        run.folder.model,
        name=run.cfg.name,
        classes=run.data.classes,
        mean=run.data.mean,
        std=run.data.std,
        provenance=Provenance(
            git_revision=record.git_revision,
            config_digest=config_digest(run.cfg),
            dataset_digest=run.data.digest,
            lock_digest=record.lock_digest,
            device=record.device,
            precision=record.precision,
        ),
        images=images,
        labels=labels,
        probabilities=evaluated.probabilities,
    )
    rows = read_rows(run.folder.metrics)
    draw_run(
        run.folder,
        report.metadata,
        report.evaluation,
        rows=rows,
        images=images,
        labels=labels,
        probabilities=evaluated.probabilities,
        parameters=record.parameters,
    )
    summary = _summary(run, report, record, rows)
    write_whole(run.folder.summary, json.dumps(summary, indent=2) + "\n")
    return report


def _summary(
    run: TrainedRun, report: ExportReport, record: TrainingRecord, rows: list[dict[str, float]]
) -> dict[str, Any]:
    """The summary, as `ml.stages` writes it for a run of //ml:train."""
    monitor = run.cfg.monitor
    return {
        "name": run.cfg.name,
        "seed": run.cfg.seed,
        "monitor": monitor,
        monitor: rows[record.best_epoch - 1][monitor],
        "best_epoch": record.best_epoch,
        "epochs": len(rows),
        "training_s": record.training_s,
        "device": record.device,
        "precision": record.precision,
        "git_revision": record.git_revision,
        **report.as_dict(),
        "temperature": record.temperature,
    }


def main() -> int:
    enter_stage()
    try:
        with Progress("exporting", console=Console()):
            report = export(open_trained(RUN))
    except (ArtifactError, DatasetError, ParityError, RunError) as exc:
        print(exc, file=sys.stderr)
        return BAD_INPUT
    figures = {"megabytes": round(report.size_bytes / 1e6, 3), "parity": report.parity}
    write_whole(METRICS / "export.json", json.dumps(figures, indent=2) + "\n")
    print(
        f"{report.path}: {report.size_bytes / 1e6:.2f} MB, version {report.metadata.version[:12]}, "
        f"ONNX and PyTorch agree within {report.parity:.1e}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
