"""Trains, evaluates once on the test set, exports, and writes everything to a run folder: ``bazel
run //ml:train``."""

import sys
from typing import TYPE_CHECKING, Any, NoReturn

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, InstantiationException
from omegaconf import DictConfig
from rich.console import Console

from ml.commands.completion import answers
from ml.data.cifar10 import DatasetError
from ml.runs.folder import ResumeError, RunFolder
from ml.runs.summary import print_summary
from ml.training.config import CONFIGS, ConfigError, check_values, composed, register_schema
from ml.training.launch import INTERRUPTED, begun_run, hydra_arguments, is_first

if TYPE_CHECKING:
    from ml.training.presets import Presets


BAD_INPUT = 2  # exit code: nothing was trained


def _train(cfg: DictConfig, run: RunFolder, console: Console) -> dict[str, Any]:
    from ml import stages  # imports PyTorch, for which --help need not wait

    try:
        return stages.train(cfg, run, console)
    except KeyboardInterrupt:
        hint = f" Continue with: resume={run.path}" if run.metrics.exists() else ""
        print(f"\nInterrupted.{hint}", file=sys.stderr)
        sys.exit(INTERRUPTED)


class _Job:
    has_begun = False  # false as long as Hydra composes the configuration


@hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name="train")
def main(cfg: DictConfig) -> float:
    """Hydra's entry; returns the monitored metric, so that a sweep can search over it."""
    _Job.has_begun = True
    console = Console(soft_wrap=True)
    try:
        check_values(cfg)
        overrides = HydraConfig.get().overrides.task
        with begun_run(cfg, overrides, console, lambda: _configurations(cfg)) as (run, chosen):
            summary = _train(chosen, run, console)
    except (ConfigError, ResumeError, DatasetError, InstantiationException) as exc:
        _refuse(exc)
    if is_first():
        print_summary(console, run, summary)
    metric: float = summary[chosen.monitor]
    return metric


def _configurations(cfg: DictConfig) -> "Presets":
    """The presets of the ladder, unless the command line names one or sets values that they do
    not cover."""
    from ml.training.presets import Presets

    hydra_cfg = HydraConfig.get()
    overrides, choices = hydra_cfg.overrides.task, hydra_cfg.runtime.choices
    named = any(choices.get(group) for group in ("preset", "experiment", "debug"))
    known = (choices["data"], choices["network"]) == ("cifar10", "resnet")
    if cfg.budget is None or named or not known:
        return Presets(cfg)
    search = [text for text in hydra_cfg.overrides.hydra if text.startswith("hydra.searchpath")]
    return Presets(cfg, overrides, lambda name: composed([*overrides, *search, f"preset={name}"]))


def _refuse(exc: Exception) -> NoReturn:
    cause = exc.__cause__ or exc
    print(f"{type(cause).__name__}: {cause}\nNothing was trained.", file=sys.stderr)
    sys.exit(BAD_INPUT)


def run_entry() -> None:
    """Runs `main` with exit codes that a script can tell apart: 2 bad input, 130 interrupted, 1 a
    crash."""
    if answers(sys.argv[1:]):
        return
    register_schema()
    try:
        sys.argv[1:] = hydra_arguments(sys.argv[1:])
        main()
    except ResumeError as exc:
        _refuse(exc)
    except HydraException as exc:
        # Where Python is traced, by a debugger or by coverage.py, Hydra raises what it would print.
        if _Job.has_begun:
            raise
        _refuse(exc)
    except SystemExit as exc:
        # Hydra leaves with 1 for a configuration that does not compose, as for a crash of the job.
        refused = exc.code == 1 and not _Job.has_begun
        sys.exit(BAD_INPUT if refused else exc.code)


if __name__ == "__main__":
    run_entry()
