"""The stage `export`: from trained weights and test predictions to a verified model.onnx, plots,
report and summary.

ONNX is compared with the predictions that `evaluate` wrote, so PyTorch does not run again.
"""

import json
import sys
from typing import Any

from rich.console import Console

from common.files import write_whole
from common.model.artifact import ArtifactError
from common.terminal import Progress
from ml import stages
from ml.artifact.export import ParityError
from ml.data.cifar10 import DatasetError
from ml.pipeline.evaluate import read_evaluated
from ml.pipeline.layout import METRICS, RUN, enter_stage
from ml.runs.loading import Trained, TrainedError, open_trained

BAD_INPUT = 2


def export(trained: Trained) -> dict[str, Any]:
    """Runs the stage on an evaluated run folder; returns the summary.

    Raises:
        TrainedError: it has not been evaluated.
        ParityError, ArtifactError: the model fails a gate; nothing was written.
    """
    evaluated = read_evaluated(trained.run)
    if evaluated is None:
        raise TrainedError(f"{trained.run.path} is not evaluated yet: run the stage evaluate")
    return stages.conclude(trained, evaluated.probabilities)


def main() -> int:
    enter_stage()
    try:
        with Progress("exporting", console=Console()):
            summary = export(open_trained(RUN))
    except (ArtifactError, DatasetError, ParityError, TrainedError) as exc:
        print(exc, file=sys.stderr)
        return BAD_INPUT
    size, parity = summary["model_bytes"] / 1e6, summary["parity"]
    figures = {"megabytes": round(size, 3), "parity": parity}
    write_whole(METRICS / "export.json", json.dumps(figures, indent=2) + "\n")
    print(
        f"{RUN / 'model.onnx'}: {size:.2f} MB, version {summary['model_version'][:12]}, "
        f"ONNX and PyTorch agree within {parity:.1e}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
