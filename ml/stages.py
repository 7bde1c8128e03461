"""The stages of a run in their order: fit, evaluate, export, report.

//ml:train runs them one after the other in one process. Build actions, DVC stages and commands run
those that they need: fitting alone is `ml.training.fitting`, which does not depend on later stages.
Imports are local to stages, so that an export neither waits for Lightning and Matplotlib nor has
them in its cache key.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from hydra.utils import instantiate
from numpy.typing import NDArray
from omegaconf import DictConfig
from rich.console import Console

from common.files import write_whole
from common.model.artifact import read_artifact
from common.terminal import Progress
from ml.artifact.artifact import load_artifact
from ml.artifact.evaluation import Labelled
from ml.artifact.export import ExportReport, export_artifact
from ml.artifact.quantise import QuantisationReport, quantise_artifact
from ml.runs.datasets import check_same
from ml.runs.folder import RunFolder
from ml.runs.loading import Trained, calibration_images, labelled_test

if TYPE_CHECKING:
    import lightning


def train(
    cfg: DictConfig,
    run: RunFolder,
    console: Console,
    extra_callbacks: "Sequence[lightning.Callback]" = (),
) -> dict[str, Any]:
    """One run from its configuration to its summary, continued from its last checkpoint if there is
    one.

    Args:
        run: an existing folder with this configuration, see `ml.runs.folder.open_run`.
        extra_callbacks: called after the configured ones; their exceptions propagate.

    Returns:
        The content of ``summary.json``: the monitored metric, test metrics, times in seconds, sizes
            in bytes. Without test metrics and model if ``cfg.conclude`` is false.

    Raises:
        ConfigError, InstantiationException, DatasetError, ResumeError: nothing was started.
        DivergedError: the loss is NaN or infinite; earlier results stay.
        ParityError: the exported model's predictions differ from the network's.
        KeyboardInterrupt: Ctrl-C; the run can be continued.
    """
    from ml.training import fitting
    from ml.training.config import is_fast_dev_run

    concludes = cfg.get("conclude", True) and not is_fast_dev_run(cfg)
    with _mirrored(cfg, run, console):
        fitted = fitting.fit(cfg, run, console, extra_callbacks, tests=concludes)
        if not fitted.trainer.is_global_zero:
            return fitting.summarise(cfg, fitted)
        if found := fitting.rate_test(fitted.trainer):
            from ml.report.page import write_rate_test

            plot = write_rate_test(run, found)
            return _write_summary(run, {"rate_test": found, "plot": str(plot)})
        if not concludes:
            kind = {"fast_dev_run": True} if is_fast_dev_run(cfg) else {}
            return _write_summary(run, fitting.summarise(cfg, fitted) | kind)
        console.print("Evaluating on the test set and exporting ...", highlight=False)
        with Progress("evaluating and exporting", console=console):
            training = fitting.finish(cfg, fitted, run.weights)
            trained = Trained(run, run.weights, cfg, fitted.data, fitted.module.network, training)
            return conclude(trained, augmented=augmented_samples(fitted.data))


def augmented_samples(data: Any) -> NDArray[np.uint8] | None:
    """A few images with their augmentations; None if the data module does not provide them."""
    tells = getattr(data, "augmented_samples", None)
    return tells() if tells else None


def conclude(
    trained: Trained,
    probabilities: NDArray[np.float32] | None = None,
    augmented: NDArray[np.uint8] | None = None,
) -> dict[str, Any]:
    """Evaluates, exports and reports on a network in its run folder; the summary is written last.

    Args:
        probabilities: (N, K), the network's predictions for the test set; computed here if omitted.
        augmented: see `augmented_samples`, for the report; None without training images.

    Returns:
        The content of ``summary.json``.

    Raises:
        ParityError: the exported model's predictions differ from the network's.
    """
    from ml.report.page import draw_run

    test = labelled_test(trained.data)
    if probabilities is None:
        probabilities = trained.answer(test.images)
    exported = export(trained, trained.run.model, test, probabilities)
    draw_run(
        trained.run,
        exported.metadata,
        exported.evaluation,
        test=test,
        probabilities=probabilities,
        parameters=trained.parameters,
        augmented=augmented,
    )
    return _write_summary(trained.run, trained.training | exported.as_dict())


def export(
    trained: Trained, path: Path, test: Labelled, probabilities: NDArray[np.float32]
) -> ExportReport:
    """Writes the fp32 artifact of an evaluated network.

    Raises:
        ParityError, ArtifactError: it fails a gate; nothing was written.
    """
    return export_artifact(
        trained.network,
        path,
        name=trained.cfg.name,
        classes=trained.data.classes,
        mean=trained.data.mean,
        std=trained.data.std,
        provenance=trained.provenance,
        test=test,
        probabilities=probabilities,
        resize=getattr(trained.data, "resize", "crop"),
    )


def quantise(data: Any, full: Path, path: Path, test: Labelled) -> QuantisationReport:
    """Writes the INT8 sibling of an fp32 artifact, calibrated on training images.

    Raises:
        AccuracyError, ArtifactError: it fails a gate; nothing was written.
        DatasetMismatch: the artifact was trained on another dataset.
    """
    check_same(read_artifact(full.read_bytes()), data)
    return quantise_artifact(full, path, calibration_images=calibration_images(data), test=test)


def export_anew(
    trained: Trained, folder: Path, *, int8: bool, progress: Callable[[str], None]
) -> tuple[ExportReport, QuantisationReport | None]:
    """Writes model.onnx and model.int8.onnx, and loads each again as a service would.

    Raises:
        ParityError, AccuracyError: a gate fails; what passed before stays.
    """
    progress("evaluating on the test set, exporting, comparing ONNX with PyTorch")
    full, small = folder / "model.onnx", folder / "model.int8.onnx"
    test = labelled_test(trained.data)
    report = export(trained, full, test, trained.answer(test.images))
    load_artifact(full)
    if not int8:
        return report, None
    progress("calibrating and evaluating INT8")
    quantised = quantise(trained.data, full, small, test)
    load_artifact(small)
    return report, quantised


def _write_summary(run: RunFolder, summary: dict[str, Any]) -> dict[str, Any]:
    write_whole(run.summary, json.dumps(summary, indent=2, allow_nan=False) + "\n")
    return summary


@contextmanager
def _mirrored(cfg: DictConfig, run: RunFolder, console: Console) -> Iterator[None]:
    """A run's loggers, active while the context is open; none by default."""
    from ml.training.config import is_fast_dev_run
    from ml.training.launch import is_first

    named = cfg.get("logger") or {}
    # Configurations of earlier releases or users may lack this key.
    loggers = [named] if "_target_" in named else [one for one in named.values() if one]
    if is_fast_dev_run(cfg) or not is_first():
        loggers = []
    with ExitStack() as mirrors:
        for logger in loggers:
            # Called here: as arguments of instantiate, Hydra would convert both to mappings.
            mirrors.enter_context(instantiate(logger, _partial_=True)(run=run, console=console))
        yield
