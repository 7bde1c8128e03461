"""Paths as users type them, and atomic writes."""

import hashlib
import os
import tempfile
from contextlib import suppress
from pathlib import Path


def user_path(text: str | Path) -> Path:
    """Resolves a user's path against the directory where `bazel run` was called."""
    return Path(os.environ.get("BUILD_WORKING_DIRECTORY", "")) / Path(text).expanduser()


def workspace_folder() -> Path:
    """The workspace that `bazel run` was called in, else the working directory; absolute."""
    return Path(os.environ.get("BUILD_WORKSPACE_DIRECTORY") or os.getcwd()).absolute()


def kept_place(variable: str, name: str) -> str:
    """Default location of a command's data: an environment variable, else a folder below the
    workspace's .kiln.
    """
    return os.environ.get(variable) or str(workspace_folder() / ".kiln" / name)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_whole(path: Path, data: bytes | str) -> None:
    """Atomic write: a temporary file, then a rename. Text is UTF-8."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, aside = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(aside, 0o644)  # mkstemp's 0600 would lock other users out
        os.replace(aside, path)
    except BaseException as exc:
        with suppress(FileNotFoundError):
            os.unlink(aside)
        if isinstance(exc, OSError) and exc.filename is None:  # such as a full disk
            exc.filename = os.fspath(path)
        raise
