"""The user's workspace as DVC needs it: a clone, with the dataset's files where the pin says."""

import os
from pathlib import Path

from ml.data.cifar10_cache import cache_folder
from ml.data.cifar10_pin import FILE_NAMES, Mismatch, read_pin
from ml.data.fetch import default_sources, fetch
from ml.data.source import Progress
from ml.pipeline.layout import DATA, PIN


class WorkspaceError(ValueError):
    """DVC cannot work here; the message says what is missing and what to do."""


def find_workspace() -> Path:
    """The root of the workspace that the command was typed in.

    Raises:
        WorkspaceError: it is no clone of a project that DVC looks after.
    """
    root = Path(os.environ.get("BUILD_WORKSPACE_DIRECTORY") or ".").absolute()
    if not (root / ".dvc").is_dir():
        raise WorkspaceError(
            f"{root} is no DVC repository, for there is no folder .dvc: run this in a clone of the "
            "project, or make one of it with: init"
        )
    if not any((folder / ".git").exists() for folder in (root, *root.parents)):
        raise WorkspaceError(
            f"{root} is no git repository, and DVC compares with what git knows: run this in a "
            "clone, or begin with: git init"
        )
    return root


def place_dataset(root: Path) -> None:
    """Puts train.bin and test.bin where ``ml/data/cifar10.dvc`` says, as links to this machine's
    copy; fetches them if need be.

    Raises:
        WorkspaceError: a file is there and is not the pinned one; it is left alone.
        FetchError, PinError: no source delivers; the pin cannot be read.
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
            progress=Progress(),
        )
