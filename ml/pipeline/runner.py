"""DVC from the locked packages, in the user's workspace: ``bazel run //ml:dvc -- repro``.

It is DVC's own command line. Around it: the stages' programs come along, the dataset is put where
its pin says, a remote is looked at before it is used, nothing is reported to anybody, and plots
open without a network.
"""

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from pathlib import Path
from typing import Any

from dvc.cli import DvcParserError, parse_args
from dvc.cli import main as dvc_main
from dvc.cli.parser import get_main_parser
from dvc.commands.experiments.run import CmdExperimentsRun
from dvc.config import Config, ConfigError, merge
from dvc.exceptions import DvcException, InvalidArgumentError

from ml.data.cifar10_pin import PinError
from ml.data.fetch import FetchError
from ml.data.source_dvc import configured_remote
from ml.pipeline.layout import PROGRAMS, programs_folder
from ml.pipeline.remote import RemoteError, check_remote, override_settings, state_folder
from ml.pipeline.workspace import WorkspaceError, find_workspace, place_dataset
from tools.progress import Progress

BAD_INPUT = 2
PLOTS_PAGE = Path(__file__).absolute().with_name("plots_page.html")

_EXIT_CODES = {251: BAD_INPUT, 252: 130, 253: BAD_INPUT, 254: BAD_INPUT, 255: 1}
_DESCRIPTION = """\
Data Version Control, as this project runs it:

  bazel run //ml:dvc -- repro                 brings the pipeline up to date; only what a change
                                              concerns runs
  bazel run //ml:dvc -- repro -S train.experiment=smoke
                                              the same, after this change in params.yaml
  bazel run //ml:dvc -- status                what repro would do, and why
  bazel run //ml:dvc -- metrics diff [REV]    results against the last commit, or another one
  bazel run //ml:dvc -- plots diff [REV]      the same as a page that opens from disk
  bazel run //ml:dvc -- push | pull           data, models and results to and from the remote

KILN_DVC_REMOTE=URL stands in for the remote in .dvc/config.
Exit status: 0 done, 1 failed, 2 wrong usage or configuration, 130 interrupted.
"""


def main(arguments: Sequence[str]) -> int:
    """Runs one command of DVC; its exit status."""
    _explain_ourselves()
    try:
        options = parse_args(list(arguments))
    except DvcParserError:
        return BAD_INPUT
    try:
        if options.cmd not in ("init", "version"):
            _prepare(options)
    except (WorkspaceError, RemoteError, FetchError, PinError, ConfigError) as exc:
        return _refuse(str(exc))
    except InvalidArgumentError as exc:
        return _refuse(f"{exc}: {exc.__cause__}" if exc.__cause__ else str(exc))
    except DvcException as exc:
        return _refuse(str(exc))
    with _heartbeat(options.cmd):
        status: int = dvc_main(list(arguments))
    return _EXIT_CODES.get(status, status)


def _heartbeat(command: str) -> AbstractContextManager[object]:
    """Where DVC draws no bars of its own: into a pipe or a log, moving many bytes."""
    if sys.stderr.isatty() or command == "repro":  # whose stages speak for themselves
        return nullcontext()
    return Progress(f"running dvc {command}")


def _refuse(reason: str) -> int:
    print(f"dvc: {reason}", file=sys.stderr)
    return BAD_INPUT


def _explain_ourselves() -> None:
    """Adds our examples to the help of DVC, and to `repro` the option that `exp run` has."""
    parser = get_main_parser()
    parser.prog, parser.description = "bazel run //ml:dvc --", _DESCRIPTION
    repro = next(a for a in parser._actions if a.dest == "cmd").choices["repro"]
    if "--set-param" not in repro._option_string_actions:
        repro.add_argument(
            "-S",
            "--set-param",
            action="append",
            default=[],
            metavar="[<file>:]<param>=<value>",
            help="Write this value into params.yaml first, as `exp run` does.",
        )


def _prepare(options: argparse.Namespace) -> None:
    """Makes workspace, environment and configuration ready for a command."""
    root = find_workspace()
    os.chdir(root)
    os.environ.setdefault("DVC_NO_ANALYTICS", "1")
    os.environ.setdefault("DVC_SITE_CACHE_DIR", str(state_folder(root)))
    if (programs_folder() / "train").is_file():
        os.environ[PROGRAMS] = str(programs_folder())
    _lay_over(_settings(root))
    if options.cmd in ("push", "pull", "fetch") or getattr(options, "cloud", False):
        _check_remote(options.remote)
    if options.cmd == "repro" and options.set_param:
        _set_params(options.set_param)
    if options.cmd == "repro" or options.func is CmdExperimentsRun:
        place_dataset(root)


def _settings(root: Path) -> dict[str, Any]:
    settings: dict[str, Any] = {"core": {"analytics": False, "check_update": False}}
    if PLOTS_PAGE.is_file():
        settings["plots"] = {"html_template": str(PLOTS_PAGE)}
    if override := os.environ.get("KILN_DVC_REMOTE"):
        remote = configured_remote(root, override)
        assert remote is not None
        merge(settings, override_settings(remote.url))
    return settings


def _lay_over(settings: Mapping[str, Any]) -> None:
    """Puts settings over all configuration that DVC reads in this process; no file is written."""
    load = Config.load

    def load_and_lay_over(self: Config, *args: Any, config: Any = None, **kwargs: Any) -> None:
        merged = deepcopy(dict(settings))
        merge(merged, config or {})
        load(self, *args, config=merged, **kwargs)

    Config.load = load_and_lay_over


def _check_remote(named: str | None) -> None:
    config = Config.from_cwd()
    name = named or config["core"].get("remote")
    if remote := config["remote"].get(name):  # else DVC lists the names that there are
        check_remote(remote["url"], remote)


def _set_params(assignments: Sequence[str]) -> None:
    from dvc.utils.cli_parse import to_path_overrides
    from dvc.utils.hydra import apply_overrides

    for path, overrides in to_path_overrides(assignments).items():
        apply_overrides(path, overrides)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
