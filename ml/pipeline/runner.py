"""Runs DVC from the locked packages in the user's workspace: ``bazel run //ml:dvc -- repro``.

This is DVC's own command line, with additions: the stages' programs are supplied, the dataset is
put where its pin says, a remote is checked before use, analytics are off, and plots open offline.
"""

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,
    CredentialRetrievalError,
    NoCredentialsError,
    PartialCredentialsError,
)
from dvc.cli import DvcParserError, parse_args
from dvc.cli import main as dvc_main
from dvc.cli.parser import get_main_parser
from dvc.commands.experiments.run import CmdExperimentsRun
from dvc.config import Config, ConfigError, merge
from dvc.exceptions import DvcException, InvalidArgumentError

from common.terminal import Progress
from ml.data.cifar10_files import FILE_NAMES, Mismatch, PinError, cache_folder, read_pin
from ml.data.cifar10_files import Progress as FetchProgress
from ml.data.fetch import FetchError, default_sources, fetch
from ml.data.source import SourceError
from ml.data.source_dvc import configured_remote, s3_client
from ml.pipeline.layout import DATA, PARAMS, PIN, PROGRAMS, STAGES, programs_folder


class WorkspaceError(ValueError):
    """DVC cannot run here; the message says what is missing and what to do."""


def find_workspace() -> Path:
    """The root of the workspace in which the command was called.

    Raises:
        WorkspaceError: it is not a clone of a DVC project.
    """
    root = Path(os.environ.get("BUILD_WORKSPACE_DIRECTORY") or ".").absolute()
    if not (root / ".dvc").is_dir():
        raise WorkspaceError(
            f"{root} is not a DVC repository, since it has no folder .dvc: run this in a clone of "
            "the project, or create one with: init"
        )
    if not any((folder / ".git").exists() for folder in (root, *root.parents)):
        raise WorkspaceError(
            f"{root} is not a git repository, which DVC needs: run this in a clone, or start with: "
            "git init"
        )
    return root


def place_dataset(root: Path) -> None:
    """Links train.bin and test.bin where ``ml/data/cifar10.dvc`` says to this machine's copy,
    fetching them if necessary.

    Raises:
        WorkspaceError: an existing file differs from the pinned one; it is not touched.
        FetchError, PinError: no source is available; the pin cannot be read.
    """
    pin = read_pin(root / PIN)
    for file in pin.files:
        if (root / DATA / file.name).exists():
            try:
                file.check(root / DATA / file.name)
            except Mismatch as exc:
                raise WorkspaceError(
                    f"{exc}. Delete it to get the pinned file back, or make it the pinned one: "
                    f"commit {PIN}"
                ) from exc
    if not all((root / DATA / name).exists() for name in FILE_NAMES):
        fetch(
            pin,
            default_sources(),
            cache=cache_folder(),
            output=root / DATA,
            progress=FetchProgress(),
        )


_SET_KEYS = (
    "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or name a profile: "
    "bazel run //ml:dvc -- remote modify --local REMOTE profile NAME"
)
_REFUSED = ("403", "AccessDenied", "ExpiredToken", "InvalidAccessKeyId", "SignatureDoesNotMatch")
# Access options that only DVC understands: left to DVC.
_OTHER_ACCESS = ("allow_anonymous_login", "configpath", "credentialpath")


class RemoteError(ValueError):
    """The remote cannot be used; the message names it and says what to do."""


def check_remote(url: str, options: Mapping[str, Any]) -> None:
    """Requests one name from an S3 remote, as DVC will; other remotes are left to DVC.

    Raises:
        RemoteError: the request fails.
    """
    if urlsplit(url).scheme != "s3" or any(options.get(name) for name in _OTHER_ACCESS):
        return
    parts = urlsplit(url)
    try:
        client, _ = s3_client(options)
        client.list_objects_v2(Bucket=parts.netloc, Prefix=parts.path.strip("/"), MaxKeys=1)
    except SourceError as exc:
        raise RemoteError(f"{url}: {exc}; {_SET_KEYS}") from exc
    except (NoCredentialsError, PartialCredentialsError, CredentialRetrievalError) as exc:
        raise RemoteError(f"{url} needs credentials and there are none: {_SET_KEYS}") from exc
    except ConnectionError as exc:
        raise RemoteError(
            f"{url} cannot be reached: {exc}. Check the network, AWS_ENDPOINT_URL, and the "
            f"endpointurl in .dvc/config"
        ) from exc
    except ClientError as exc:
        raise RemoteError(f"{url}: {_explain(exc, parts.netloc)}") from exc
    except BotoCoreError as exc:
        raise RemoteError(f"{url}: {exc}") from exc


def _explain(exc: ClientError, bucket: str) -> str:
    code = str(exc.response.get("Error", {}).get("Code", ""))
    if code == "NoSuchBucket":
        return f"there is no bucket {bucket}: create it, or correct the url"
    if code in _REFUSED:
        return f"these credentials are refused ({code}): {_SET_KEYS}"
    return " ".join(str(exc).split())


def override_settings(remote_url: str) -> dict[str, Any]:
    """DVC settings that replace the default remote by one address."""
    name = "environment"
    return {"core": {"remote": name}, "remote": {name: {"url": remote_url}}}


def state_folder(root: Path) -> Path:
    """DVC's state folder: in the workspace, not in the system."""
    return root / ".dvc" / "tmp" / "site"


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
    _explain_ourselves()
    try:
        options = parse_args(list(arguments))
    except DvcParserError:
        return BAD_INPUT
    try:
        if options.cmd not in ("init", "version"):
            arguments = [*arguments, *_prepare(options)]
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
    """Progress lines where DVC draws no bars: into a pipe or log, moving many bytes."""
    if sys.stderr.isatty() or command == "repro":  # its stages report progress themselves
        return nullcontext()
    return Progress(f"running dvc {command}")


def _refuse(reason: str) -> int:
    print(f"dvc: {reason}", file=sys.stderr)
    return BAD_INPUT


def _explain_ourselves() -> None:
    """Adds our examples to DVC's help, and to `repro` the option of `exp run`."""
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


def _prepare(options: argparse.Namespace) -> list[str]:
    """Prepares workspace, environment and configuration for a command; returns additional
    arguments.
    """
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
        if (dataset := _dataset()) == DATA:
            place_dataset(root)
        elif not options.targets and not options.all_pipelines:
            # Otherwise DVC would request CIFAR-10, which is in a folder that `prepare` depends on.
            pin = Path(f"{dataset}.dvc")
            return ["--downstream", str(pin) if pin.is_file() else STAGES[0]]
    return []


def _dataset() -> Path:
    try:
        params = yaml.safe_load(PARAMS.read_text(encoding="utf-8"))
        return Path(params["dataset"])
    except (OSError, yaml.YAMLError, KeyError, TypeError):
        return DATA  # DVC reports what is wrong with the file


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
    """Overrides settings for all configurations that DVC reads in this process; no file is
    written.
    """
    load = Config.load

    def load_and_lay_over(self: Config, *args: Any, config: Any = None, **kwargs: Any) -> None:
        merged = deepcopy(dict(settings))
        merge(merged, config or {})
        load(self, *args, config=merged, **kwargs)

    Config.load = load_and_lay_over


def _check_remote(named: str | None) -> None:
    config = Config.from_cwd()
    name = named or config["core"].get("remote")
    if remote := config["remote"].get(name):  # otherwise DVC lists the valid names
        check_remote(remote["url"], remote)


def _set_params(assignments: Sequence[str]) -> None:
    from dvc.utils.cli_parse import to_path_overrides
    from dvc.utils.hydra import apply_overrides

    for path, overrides in to_path_overrides(assignments).items():
        apply_overrides(path, overrides)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
