"""Files for people who call a program from where they stand; serve imports nothing of ml."""

import os
from pathlib import Path


def from_user(path: Path) -> Path:
    """As the user meant it: `bazel run` starts programs elsewhere."""
    return Path(os.environ.get("BUILD_WORKING_DIRECTORY", ""), path)


def write_whole(path: Path, data: bytes) -> None:
    """Writes aside, then renames: nobody meets a part of the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        aside.write_bytes(data)
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)
