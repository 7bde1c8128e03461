"""From a run folder and its model's answers to everything that people look at: plots, mistakes,
report."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ml.evaluation import Evaluation
from ml.plots import Rows
from ml.report import Run, write_mistakes, write_plots, write_report
from ml.run_folder import RunFolder
from ml.tracking.rows import read_rows
from serve.contract.artifact import ArtifactMetadata


def draw_run(
    run: RunFolder,
    metadata: ArtifactMetadata,
    evaluation: Evaluation,
    *,
    rows: Rows,
    images: NDArray[np.uint8],
    labels: NDArray[np.integer[Any]],
    probabilities: NDArray[np.floating[Any]],
    parameters: int,
) -> None:
    """Writes plots/, mistakes/ and report.html into a folder that holds its model.

    Args:
        rows: metrics, one an epoch.
        images: (N, H, W, 3), RGB: the test set.
        labels: (N,).
        probabilities: (N, K), what `evaluation` is of.
        parameters: of the network.
    """
    facts = Run(
        name=metadata.name,
        evaluation=evaluation,
        rows=rows,
        images=images,
        labels=labels,
        probabilities=probabilities,
        parameters=parameters,
        size_bytes=run.model.stat().st_size,
        training_s=rows[-1]["elapsed_s"],
        config=run.config.read_text(encoding="utf-8"),
        provenance={
            "Model version": metadata.version,
            "Git revision": metadata.git_revision,
            "Configuration": metadata.config_digest,
            "Dataset": metadata.dataset_digest,
            "Package lock": metadata.lock_digest,
            "Trained on": f"{metadata.device}, {metadata.precision}",
        },
        system=read_rows(run.system),
    )
    write_plots(facts, run.plots)
    run.mistakes.mkdir(exist_ok=True)  # it stays empty if there are none
    write_mistakes(facts, run.mistakes)
    write_report(facts, run.report)
