"""Parses the command line of a training and opens its run folder, which all processes started by
torchrun share.

PyTorch is imported only under torchrun, or when a new run has to choose among presets.
"""

import argparse
import errno
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from ml.runs.folder import (
    ResumeError,
    RunFolder,
    create_run,
    find_unfinished,
    open_run,
    open_unfinished,
    read_rows,
)
from ml.runs.provenance import mark_rerun
from ml.training.config import (
    COMPOSITION_ERRORS,
    DivergedError,
    is_fast_dev_run,
    not_composed,
    register_schema,
    suggestions,
)

if TYPE_CHECKING:
    from ml.training.presets import Presets

# Exit codes after the training began: its loss is not finite, its files cannot be written, and, as
# in a shell, Ctrl-C.
DIVERGED, UNWRITTEN, INTERRUPTED = 4, 5, 130
_FLAGS = ("--rerun", "--resume")  # also accepted as flags, since they are no training parameters
# Current modules of the classes in configurations of earlier releases, such as ml/bundled's.
_MOVED = {
    "ml.callbacks.": "ml.training.callbacks.",
    "ml.hardware.": "ml.training.hardware.",
    "ml.network.": "ml.training.networks.",
    "ml.optimizer.": "ml.training.optimizers.",
    "ml.tracking.system.": "ml.training.monitors.",
}
_RENDEZVOUS_LIMIT = timedelta(seconds=120)
_STORAGE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EIO)


def hydra_arguments(arguments: Sequence[str]) -> list[str]:
    """Turns ``--rerun FOLDER`` and ``--resume FOLDER`` into Hydra overrides.

    Raises:
        ResumeError: a flag has no folder.
    """
    translated, rest = [], iter(arguments)
    for argument in rest:
        flag, has_value, value = argument.partition("=")
        if flag not in _FLAGS:
            translated.append(argument)
            continue
        if not has_value:
            value = next(rest, "")
        if not value or value.startswith("-"):
            raise ResumeError(f"{flag} needs a run folder: {flag} runs/<folder>")
        quoted = value.replace("'", r"\'")
        translated.append(f"{flag[2:]}='{quoted}'")
    return translated


BAD_INPUT = 2  # exit code: nothing was trained


class Job:
    """Whether Hydra has composed the configuration of this process and called its application."""

    has_begun = False


def run_application(main: Callable[[], Any], refuse: Callable[[Exception], NoReturn]) -> None:
    """Runs a Hydra application on ``sys.argv``; if the configuration does not compose, exits with
    `BAD_INPUT` and prints suggestions.

    Args:
        main: sets `Job.has_begun`.
        refuse: prints the reason and exits.
    """
    register_schema()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises instead of printing, partly tracebacks
    try:
        main()
    except COMPOSITION_ERRORS as exc:
        if Job.has_begun:
            raise
        refuse(not_composed(exc, _overrides(sys.argv[1:])))
    except SystemExit as exc:
        # Hydra exits with 1 not only if the job crashes, but also if a folder is missing.
        if exc.code != 1 or Job.has_begun:
            raise
        print("\n".join(suggestions(_overrides(sys.argv[1:]))), file=sys.stderr)
        sys.exit(BAD_INPUT)


def _overrides(arguments: Sequence[str]) -> list[str]:
    """The overrides of a command line, including the folders of `--config-dir`."""
    options = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    options.add_argument("--config-dir", "-cd", action="append", default=[])
    known, rest = options.parse_known_args([*arguments])
    folders = ",".join(f"file://{os.path.abspath(folder)}" for folder in known.config_dir)
    given = [text for text in rest if not text.startswith("-") and "=" in text]
    return [*given, *([f"hydra.searchpath=[{folders}]"] if folders else [])]


def interrupted(continue_with: str = "") -> NoReturn:
    """Exits after Ctrl-C with `INTERRUPTED`, and prints how to continue if there is a way."""
    if is_first():
        hint = f" Continue with: {continue_with}" if continue_with else ""
        print(f"\nInterrupted.{hint}", file=sys.stderr)
    sys.exit(INTERRUPTED)


@contextmanager
def explained(run: RunFolder, continue_with: str = "") -> Iterator[None]:
    """Exits with a specific code if the training diverges, cannot write or is interrupted, and
    prints what the run folder contains and how to continue: by default ``resume=`` with it.
    """
    how = continue_with or f"resume={run.path}"
    try:
        yield
    except KeyboardInterrupt:
        interrupted(how if run.metrics.exists() else "")
    except DivergedError as exc:
        print(f"\nDiverged: {exc}.\n{_saved(run)}", file=sys.stderr)
        sys.exit(DIVERGED)
    except OSError as exc:
        if not run.metrics.exists() or exc.errno not in _STORAGE:
            raise
        print(
            f"\nNot written: {exc}.\n{_saved(run)}\nFree disk space, then continue with: {how}",
            file=sys.stderr,
        )
        sys.exit(UNWRITTEN)


def _saved(run: RunFolder) -> str:
    left = (*sorted(run.checkpoints.glob("*.ckpt")), run.weights, run.model)
    names = [str(path.relative_to(run.path)) for path in left if path.is_file()]
    epochs = len(read_rows(run.metrics))
    return f"Saved in {run.path}: {', '.join(names) or 'no checkpoint'}; metrics of {epochs} epochs"


def is_started_by_torchrun() -> bool:
    """Whether torchrun started the processes of this training."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def is_first() -> bool:
    """Whether this is the process that chooses the run folder and writes its files."""
    return not is_started_by_torchrun() or os.environ["RANK"] == "0"


def _agree_on_folder(folder: Path | None) -> Path:
    """The run folder of all processes that torchrun started: the first passes it, the others pass
    None and wait for it."""
    from torch import distributed

    store = distributed.TCPStore(  # type: ignore[attr-defined]
        os.environ["MASTER_ADDR"],
        int(os.environ["MASTER_PORT"]),
        is_master=False,  # torchrun's agent is
        timeout=_RENDEZVOUS_LIMIT,
    )
    key = f"kiln/run_folder/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
    if folder is not None:
        store.set(key, str(folder))
    return Path(store.get(key).decode())


@contextmanager
def begun_run(
    cfg: DictConfig, overrides: Sequence[str], console: Console, presets: "Callable[[], Presets]"
) -> Iterator[tuple[RunFolder, DictConfig]]:
    """The folder to train in, locked, and the configuration to train with; a folder in which no
    training began is removed again.

    Args:
        presets: called only if a new run needs them, since they import PyTorch.

    Raises:
        ResumeError: the named run cannot be resumed or repeated, or overrides would change it.
    """
    if not is_first():
        run = RunFolder(_agree_on_folder(None))
        yield run, run.load_config()
        return
    with _own_folder(cfg, overrides, console, presets) as (run, cfg):
        if is_started_by_torchrun():
            _agree_on_folder(run.path)
        yield run, cfg


@contextmanager
def _own_folder(
    cfg: DictConfig, overrides: Sequence[str], console: Console, presets: "Callable[[], Presets]"
) -> Iterator[tuple[RunFolder, DictConfig]]:
    if is_fast_dev_run(cfg):
        with tempfile.TemporaryDirectory(prefix="kiln-fast-dev-run-") as folder:
            yield open_run(Path(folder), cfg), cfg
        return
    run, cfg = _choose_run(cfg, overrides, console, presets)
    with run.lock(), run.discarded_unless_begun():
        yield run, cfg


def _choose_run(
    cfg: DictConfig, overrides: Sequence[str], console: Console, presets: "Callable[[], Presets]"
) -> tuple[RunFolder, DictConfig]:
    runs = Path(cfg.paths.runs)
    if cfg.resume and cfg.rerun:
        raise ResumeError("resume continues a run and rerun repeats one: give one of them")
    if cfg.rerun:
        original = RunFolder(_below(runs, cfg.rerun))
        if not original.path.is_dir():
            raise ResumeError(f"rerun={cfg.rerun}: there is no folder {original.path}")
        _refuse_changes("rerun", cfg.rerun, overrides)
        cfg = with_moved_classes(original.load_config())
        run = create_run(runs, cfg, datetime.now())
        mark_rerun(run, original)
        return run, cfg
    if cfg.resume == "auto":
        if found := find_unfinished(runs, presets().possible()):
            return found, found.load_config()
        console.print("resume=auto: no unfinished run of this configuration, starting one")
    elif cfg.resume:
        run = open_unfinished(_below(runs, cfg.resume))
        _refuse_changes("resume", cfg.resume, overrides)
        return run, run.load_config()
    cfg = presets().choose(console)
    return create_run(runs, cfg, datetime.now()), cfg


def with_moved_classes(cfg: DictConfig) -> DictConfig:
    """A configuration of an earlier release with the current names of its classes."""
    text = OmegaConf.to_yaml(cfg)
    for old, new in _MOVED.items():
        text = text.replace(f"_target_: {old}", f"_target_: {new}")
    moved = OmegaConf.create(text)
    assert isinstance(moved, DictConfig)
    return moved


def _below(runs: Path, path: str) -> Path:
    """The path from the user's point of view: relative paths start in the workspace, where runs/
    is."""
    return runs.parent / Path(path).expanduser()


def _refuse_changes(key: str, value: str, overrides: Sequence[str]) -> None:
    """A run that is resumed or repeated keeps its configuration."""
    own = (f"{key}=", "paths.", "budget=")
    if changes := [text for text in overrides if not text.startswith(own)]:
        raise ResumeError(
            f"{key}={value} takes the configuration of that run as it is, these would change it: "
            f"{' '.join(changes)} (leave them out, or start a new run without {key})"
        )
