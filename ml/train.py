"""Trains, evaluates once on the test set, exports, and leaves it all in a run folder: ``bazel run
//ml:train``."""

import logging
import sys
import warnings
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import hydra
import lightning
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from omegaconf import DictConfig
from rich.console import Console

from ml.conclusion import close, conclude
from ml.config import ConfigError, check_values, register_schema
from ml.data.cifar10 import DatasetError
from ml.fitting import fit, load_best
from ml.run_folder import (
    ResumeError,
    RunFolder,
    create_run,
    find_unfinished,
    open_unfinished,
)

CONFIGS = Path(__file__).absolute().parents[1] / "configs"
BAD_INPUT = 2  # exit code: nothing was trained


def train(
    cfg: DictConfig,
    run: RunFolder,
    console: Console,
    extra_callbacks: Sequence[lightning.Callback] = (),
) -> dict[str, Any]:
    """One run from its configuration to its summary, continued from its last checkpoint if it has
    one.

    Args:
        run: an existing folder that holds this configuration, see `ml.run_folder.open_run`.
        extra_callbacks: called after those of the configuration, such as a sweep's pruning; what
            they raise passes through.

    Returns:
        What ``summary.json`` holds: the searched metric, test scores, times in seconds, sizes in
        bytes. Without test scores and model if ``cfg.conclude`` is false.
    """
    fitted = fit(cfg, run, console, extra_callbacks)
    if not cfg.get("conclude", True):
        return close(cfg, run, fitted.trainer)
    load_best(fitted.module, fitted.trainer)
    console.print("Evaluating on the test set and exporting ...", highlight=False)
    return conclude(cfg, run, fitted.data, fitted.module.network, fitted.trainer)


def _print_summary(console: Console, run: RunFolder, summary: dict[str, Any]) -> None:
    if "test" not in summary:
        metric = summary["monitor"]
        console.print(
            f"\n[bold green]Best {metric} {summary[metric]:.4f}[/] at epoch "
            f"{summary['best_epoch']}; not tested, not exported (conclude=false)\n"
            f"  summary  {run.summary}\n  metrics  {run.metrics}",
            highlight=False,
        )
        return
    test, version = summary["test"], summary["model_version"][:12]
    lines = (
        f"\n[bold green]Test accuracy {test['accuracy']:.2%}[/], macro F1 {test['macro_f1']:.4f}, "
        f"loss {test['loss']:.4f}, calibration error {test['calibration_error']:.4f} "
        f"({test['images']:,} images, seen once)",
        f"Validation best at epoch {summary['best_epoch']}; "
        f"training took {summary['training_s']:.0f} s, export {summary['export_s']:.0f} s; "
        f"ONNX and PyTorch agree within {summary['parity']:.1e}",
        f"  model    {run.model}  ({summary['model_bytes'] / 1e6:.2f} MB, version {version})",
        f"  summary  {run.summary}",
        f"  metrics  {run.metrics}",
        f"  plots    {run.plots}",
        f"  report   {run.report}",
    )
    console.print("\n".join(lines), highlight=False)


def choose_run(
    cfg: DictConfig, overrides: list[str], console: Console
) -> tuple[RunFolder, DictConfig]:
    """The folder to train in and the configuration to train by: a new run, or the one that
    ``resume`` names.

    Raises:
        ResumeError: the named run cannot be continued, or was asked to change.
    """
    runs = Path(cfg.paths.runs)
    if cfg.resume is None:
        return create_run(runs, cfg, datetime.now()), cfg
    if cfg.resume == "auto":
        found = find_unfinished(runs, cfg)
        if found is None:
            console.print("resume=auto: no unfinished run of this configuration, starting one")
        return found or create_run(runs, cfg, datetime.now()), cfg
    path = Path(cfg.resume)
    run = open_unfinished(path if path.is_absolute() else runs.parent / path)
    if changes := [text for text in overrides if not text.startswith(("resume=", "paths."))]:
        raise ResumeError(
            f"resume={cfg.resume} continues a run exactly as it was started, "
            f"these would change it: "
            f"{' '.join(changes)} (leave them out, or start a new run without resume)"
        )
    return run, run.load_config()


class _Job:
    has_begun = False  # false as long as Hydra composes the configuration


@hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name="train")
def main(cfg: DictConfig) -> float:
    """Hydra's entry; returns the monitored metric, so that a sweep can search over it."""
    _Job.has_begun = True
    console = Console(soft_wrap=True)
    try:
        check_values(cfg)
        run, cfg = choose_run(cfg, list(HydraConfig.get().overrides.task), console)
        with run.lock(), run.discarded_unless_begun():
            summary = train(cfg, run, console)
    except (ConfigError, ResumeError, DatasetError, InstantiationException) as exc:
        cause = exc.__cause__ or exc
        print(f"{type(cause).__name__}: {cause}\nNothing was trained.", file=sys.stderr)
        sys.exit(BAD_INPUT)
    _print_summary(console, run, summary)
    metric: float = summary[cfg.monitor]
    return metric


def run_entry() -> None:
    """Runs `main` with exit codes that a script can tell apart: 2 bad input, 130 interrupted, 1 a
    crash."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")  # Lightning's own use of PyTorch
    register_schema()
    try:
        main()
    except SystemExit as exc:
        # Hydra leaves with 1 for a configuration that does not compose, as for a crash of the job.
        refused = exc.code == 1 and not _Job.has_begun
        sys.exit(BAD_INPUT if refused else exc.code)


if __name__ == "__main__":
    run_entry()
