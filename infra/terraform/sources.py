"""A root's files in a folder that Terraform may write to: Bazel's runfiles are read-only links."""

from __future__ import annotations

import fcntl
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from infra.terraform.endpoint import own_s3_endpoint
from infra.terraform.errors import TerraformError
from infra.terraform.package import package

SOURCES = Path(__file__).absolute().parent
ROOTS = ("state", "registry", "github", "service", "observability")
ENVIRONMENTS = ("account", "dev", "staging", "prod")

_SUFFIXES = (".tf", ".tf.json", ".tftest.hcl", ".tftpl")
_ENDPOINT_OVERRIDE = "endpoint_override.tf.json"
_FUNCTION = "function"  # folder of a module's Lambda function


def copy_root(root: str, work: Path, environ: Mapping[str, str]) -> Path:
    """Puts the root and the modules below `work`, as they are now; returns the root's folder.

    What Terraform itself keeps in the root's folder stays.
    """
    folder = work / "roots" / root
    _clear(folder)
    shutil.rmtree(work / "modules", ignore_errors=True)
    _copy(SOURCES / "roots" / root, folder)
    _copy(SOURCES / "modules", work / "modules")
    if own_s3_endpoint(environ):
        override = {"provider": {"aws": {"s3_use_path_style": True}}}
        (folder / _ENDPOINT_OVERRIDE).write_text(json.dumps(override, indent=2) + "\n")
    return folder


def variable_files(root: str, environment: str) -> list[Path]:
    """Files of `envs/` that hold for this root, from general to special."""
    names = (f"{environment}.tfvars", f"{environment}.{root}.tfvars")
    return [path for name in names if (path := SOURCES / "envs" / name).is_file()]


@contextmanager
def alone(work: Path) -> Iterator[None]:
    """Raises:
    TerraformError: another process uses the folder.
    """
    work.mkdir(parents=True, exist_ok=True)
    with (work / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise TerraformError(
                f"another process runs Terraform in {work}: wait until it is done"
            ) from None
        try:
            yield
        finally:
            # Closing is not enough: a child that another thread forks now has the file as well.
            fcntl.flock(lock, fcntl.LOCK_UN)


def _clear(folder: Path) -> None:
    """Takes away sources of another day: Terraform reads every file of a folder."""
    for path in folder.glob("*"):
        if path.name.endswith(_SUFFIXES):
            path.unlink()


def _copy(source: Path, target: Path) -> None:
    for path in source.rglob("*"):
        place = target / path.relative_to(source)
        if path.name.endswith(_SUFFIXES):
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, place)
        elif path.name == _FUNCTION and path.is_dir():
            place.parent.mkdir(parents=True, exist_ok=True)
            place.with_suffix(".zip").write_bytes(package(path))
