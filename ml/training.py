"""One run from its configuration to its summary: fitting, then the test set, the export, the
report."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import lightning
from hydra.utils import instantiate
from omegaconf import DictConfig
from rich.console import Console

from ml.conclusion import close, conclude, summarise_training
from ml.config import is_fast_dev_run
from ml.fitting import fit, load_best
from ml.run_folder import RunFolder
from ml.torchrun import is_first
from tools.progress import Progress


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

    Raises:
        ConfigError, InstantiationException, DatasetError, ResumeError: nothing has started.
        SystemExit: Ctrl-C, with `ml.launch.INTERRUPTED`; the run can be continued.
    """
    with _mirrored(cfg, run, console):
        fitted = fit(cfg, run, console, extra_callbacks)
        if not is_first():
            return summarise_training(cfg, fitted.trainer)
        if is_fast_dev_run(cfg) or not cfg.get("conclude", True):
            return close(cfg, run, fitted.trainer)
        load_best(fitted.module, fitted.trainer)
        console.print("Evaluating on the test set and exporting ...", highlight=False)
        with Progress("evaluating and exporting", console=console):
            return conclude(cfg, run, fitted.data, fitted.module.network, fitted.trainer)


def _mirrored(cfg: DictConfig, run: RunFolder, console: Console) -> AbstractContextManager[Any]:
    """The logger of a run, at work as long as the context lasts; by default there is none."""
    logger = cfg.get("logger")
    if not logger or is_fast_dev_run(cfg) or not is_first():
        return nullcontext()
    mirror: AbstractContextManager[Any] = instantiate(logger, run=run, console=console)
    return mirror
