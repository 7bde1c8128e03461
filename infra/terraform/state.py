"""Backends of Terraform's state: a local folder or an S3 bucket."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from common.aws import addressing
from common.files import user_path
from infra.terraform.program import TerraformError

# Merged over the roots' `backend "s3"`: a folder needs no bucket, account or network.
_OVERRIDE = "state_override.tf.json"


class State(Protocol):
    """A backend; each root and environment has its own state there."""

    def options(self, root: str, environment: str, folder: Path) -> list[str]:
        """Writes the backend files for the root in `folder`; returns options for `terraform
        init`.
        """
        ...

    def place(self, root: str, environment: str) -> str:
        """Location of a root's state, for messages."""
        ...

    def read(self, root: str, environment: str) -> bytes | None:
        """The state of a root; None if it was never applied.

        Raises:
            TerraformError: it cannot be read.
        """
        ...


@dataclass(frozen=True)
class LocalState:
    """Files in a folder, locked by Terraform against other processes of this machine."""

    folder: Path

    def options(self, root: str, environment: str, folder: Path) -> list[str]:
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.place(root, environment)
        override = {"terraform": {"backend": {"local": {"path": path}}}}
        (folder / _OVERRIDE).write_text(json.dumps(override, indent=2) + "\n")
        return []

    def place(self, root: str, environment: str) -> str:
        return str(self.folder.absolute() / f"{environment}-{root}.tfstate")

    def read(self, root: str, environment: str) -> bytes | None:
        try:
            return Path(self.place(root, environment)).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as exc:
            raise TerraformError(f"{exc.filename} cannot be read ({exc.strerror})") from exc


@dataclass(frozen=True)
class S3State:
    """Objects in the bucket of the root `state`, each with a lock file."""

    bucket: str
    prefix: str = "terraform"
    region: str = ""  # empty: from AWS_REGION or the profile

    def options(self, root: str, environment: str, folder: Path) -> list[str]:
        (folder / _OVERRIDE).unlink(missing_ok=True)
        settings = {
            "bucket": self.bucket,
            "key": self._key(root, environment),
            "region": self.region,
        }
        return [f"-backend-config={name}={value}" for name, value in settings.items() if value]

    def place(self, root: str, environment: str) -> str:
        return f"s3://{self.bucket}/{self._key(root, environment)}"

    def read(self, root: str, environment: str) -> bytes | None:
        config = Config(
            connect_timeout=5,
            read_timeout=5,
            retries={"mode": "standard", "total_max_attempts": 3},
            s3=addressing(os.environ),
        )
        place = self.place(root, environment)
        try:
            s3 = boto3.session.Session().client("s3", self.region or None, config=config)
            answer = s3.get_object(Bucket=self.bucket, Key=self._key(root, environment))
            found: bytes = answer["Body"].read()
        except ClientError as exc:
            if exc.response.get("Error", {}).get("Code") == "NoSuchKey":
                return None
            raise TerraformError(f"Terraform's state {place} cannot be read: {exc}") from exc
        except BotoCoreError as exc:
            raise TerraformError(f"Terraform's state {place} cannot be read: {exc}") from exc
        return found

    def _key(self, root: str, environment: str) -> str:
        return f"{self.prefix}/{environment}/{root}.tfstate"


def parse_state(text: str) -> State:
    """Parses ``s3://bucket/prefix``, or a folder relative to where the command was called.

    Raises:
        TerraformError: it is neither.
    """
    parts = urlsplit(text)
    if parts.scheme == "s3" and parts.netloc:
        return S3State(parts.netloc, parts.path.strip("/") or S3State.prefix)
    if parts.scheme or not text:
        raise TerraformError(f"expected s3://bucket/prefix or a folder for the state, got {text!r}")
    return LocalState(user_path(text))
