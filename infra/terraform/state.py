"""Where Terraform keeps what it knows: a folder of this machine, or a bucket of S3."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

from infra.terraform.errors import TerraformError

# Merged over the roots' own `backend "s3"`: a folder needs no bucket, no account and no network.
_OVERRIDE = "state_override.tf.json"


class State(Protocol):
    """A backend; each root and environment has a state of its own there."""

    def options(self, root: str, environment: str, folder: Path) -> list[str]:
        """Writes what the root in `folder` needs; returns the options of `terraform init`."""
        ...


@dataclass(frozen=True)
class LocalState:
    """Files of a folder. Terraform locks them against other processes of this machine."""

    folder: Path

    def options(self, root: str, environment: str, folder: Path) -> list[str]:
        self.folder.mkdir(parents=True, exist_ok=True)
        path = str(self.folder.absolute() / f"{environment}-{root}.tfstate")
        override = {"terraform": {"backend": {"local": {"path": path}}}}
        (folder / _OVERRIDE).write_text(json.dumps(override, indent=2) + "\n")
        return []


@dataclass(frozen=True)
class S3State:
    """Objects of a bucket, which the root `state` makes, locked by a file beside each."""

    bucket: str
    prefix: str = "terraform"
    region: str = ""  # empty: as AWS_REGION or the profile say

    def options(self, root: str, environment: str, folder: Path) -> list[str]:
        (folder / _OVERRIDE).unlink(missing_ok=True)
        settings = {
            "bucket": self.bucket,
            "key": f"{self.prefix}/{environment}/{root}.tfstate",
            "region": self.region,
        }
        return [f"-backend-config={name}={value}" for name, value in settings.items() if value]


def parse_state(text: str) -> State:
    """``s3://bucket/prefix``, or a folder, relative to where the command was typed.

    Raises:
        TerraformError: neither.
    """
    parts = urlsplit(text)
    if parts.scheme == "s3" and parts.netloc:
        return S3State(parts.netloc, parts.path.strip("/") or S3State.prefix)
    if parts.scheme or not text:
        raise TerraformError(f"expected s3://bucket/prefix or a folder for the state, got {text!r}")
    return LocalState(Path(os.environ.get("BUILD_WORKING_DIRECTORY", "")) / Path(text).expanduser())
