"""Sends finished runs to W&B: ``bazel run //ml:wandb_sync -- runs/<folder> …``."""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from rich.console import Console
from rich.table import Table

from common.command_line import command_parser
from ml.runs.folder import ResumeError, RunFolder
from ml.tracking.wandb_logger import SYNCED, Destination, WandbProcess, has_key

BAD_INPUT, FAILED = 2, 1
_PATIENCE_S = 600.0  # for one run
_EXAMPLES = """\
examples:
  bazel run //ml:wandb_sync                    every finished run below runs/ that was not sent yet
  bazel run //ml:wandb_sync -- runs/<folder>   that run; sent again if it was sent before
  bazel run //ml:wandb_sync -- --list          what was sent and what was not

The key is read from WANDB_API_KEY or ~/.netrc; WANDB_BASE_URL names a server other than wandb.ai.
What is sent comes from the run folder, so a run that was trained with logger=none can be sent too.
"""


class SyncError(ValueError):
    """Nothing was sent; the message says why and what to do."""


def main() -> None:
    """Exit codes: 0 all were sent, 1 some were not, 2 bad input."""
    console = Console(soft_wrap=True)
    arguments = _parser().parse_args()
    try:
        runs = [_open(Path(path)) for path in arguments.runs] or _all(arguments.below)
        if arguments.list:
            console.print(_table(runs))
            return
        if not has_key():
            raise SyncError(
                "no W&B key: put it into WANDB_API_KEY (from https://wandb.ai/authorize) "
                "or into ~/.netrc"
            )
    except (SyncError, ResumeError) as exc:
        print(f"{type(exc).__name__}: {exc}\nNothing was sent.", file=sys.stderr)
        sys.exit(BAD_INPUT)
    if not arguments.runs:
        runs = [run for run in runs if run.is_finished and sent(run) is None]
    if not runs:
        console.print("Every finished run was sent already; --list shows them.")
    outcomes = [_send(run, arguments, console) for run in runs]
    if not all(outcomes):
        sys.exit(FAILED)


def sent(run: RunFolder) -> dict[str, Any] | None:
    """The address that a run was sent to; None if it was not sent."""
    path = run.path / SYNCED
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def _send(run: RunFolder, arguments: argparse.Namespace, console: Console) -> bool:
    destination = _destination(run, arguments.project, arguments.entity)
    with console.status(f"{run.path.name} → {destination.project}"):
        process = WandbProcess(run, destination, online=True)
        try:
            process.end(finished=run.is_finished, patience_s=arguments.patience_s)
        except BaseException:
            process.stop()
            raise
    if process.state == "done":
        console.print(f"[green]sent[/]    {run.path.name}  {process.detail}", highlight=False)
        return True
    why = process.detail if process.state == "failed" else f"not done in {arguments.patience_s:g} s"
    console.print(f"[red]failed[/]  {run.path.name}  {why}", highlight=False)
    return False


def _destination(run: RunFolder, project: str | None, entity: str | None) -> Destination:
    """The run's configured destination, unless the command line overrides it."""
    named = OmegaConf.to_container(run.load_config()).get("logger") or {}  # type: ignore[union-attr]
    logger = named.get("wandb") or named  # absent in runs of earlier releases
    return Destination(
        project=project or logger.get("project") or "kiln",
        entity=entity or logger.get("entity"),
        group=logger.get("group"),
        tags=tuple(logger.get("tags") or ()),
        notes=logger.get("notes"),
    )


def _table(runs: Sequence[RunFolder]) -> Table:
    table = Table("run", "state", "sent to", box=None, header_style="bold")
    for run in runs:
        state = "finished" if run.is_finished else "unfinished"
        table.add_row(run.path.name, state, (sent(run) or {}).get("url", "–"))
    return table


def _open(path: Path) -> RunFolder:
    workspace = Path(os.environ.get("BUILD_WORKSPACE_DIRECTORY", "."))
    run = RunFolder(workspace / path.expanduser())
    if not run.path.is_dir():
        raise SyncError(f"there is no folder {run.path}")
    run.load_config()
    return run


def _all(below: str) -> list[RunFolder]:
    workspace = Path(os.environ.get("BUILD_WORKSPACE_DIRECTORY", "."))
    return [RunFolder(path.parent) for path in sorted((workspace / below).glob("*/config.yaml"))]


def _parser() -> argparse.ArgumentParser:
    parser = command_parser(
        "//ml:wandb_sync",
        "Send runs to W&B: curves, plots, worst mistakes, the model with its lineage.",
        _EXAMPLES,
    )
    add = parser.add_argument
    add("runs", nargs="*", metavar="RUN", help="run folders; default: all")
    add("--list", action="store_true", help="list what was sent, send nothing")
    add("--below", default="runs", help="parent of the run folders (default: runs)")
    add("--project", help="default: as configured for the run, else kiln")
    add("--entity", help="user or team (default: the key's own)")
    add("--patience-s", type=float, default=_PATIENCE_S, help="seconds per run (default: 600)")
    return parser


if __name__ == "__main__":
    main()
