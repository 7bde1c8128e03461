"""AWS on loopback with an image in its registry, and Terraform that talks to it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cache
from io import StringIO
from pathlib import Path
from subprocess import Popen
from typing import Any
from unittest.mock import patch

import boto3
import pytest
from rich.console import Console

from infra.terraform.program import INSTALL, Installation, TerraformMissing, find_installation
from infra.terraform.root import ROOTS, Root
from infra.terraform.state import LocalState, State
from infra.twin.cloud.cloud import Cloud
from tests.infra.terraform.provider import Provider
from tests.infra.terraform.recording import Recorder, recording

ACCOUNT = "123456789012"
REGION = "eu-central-1"
# What moto lacks: budgets with a topic, and composite alarms. See infra/terraform/README.md.
WITHOUT = {"monthly_budget_usd": 0, "burn_rate_alarms": False}


def require_terraform() -> Installation:
    """A machine without Terraform skips the test visibly; one without its provider fails later."""
    try:
        return find_installation()
    except TerraformMissing:
        pytest.skip(f"no Terraform: {INSTALL}")


@dataclass(frozen=True)
class Aws:
    """One account, and a folder for all that Terraform writes."""

    cloud: Cloud
    folder: Path
    terraform: Callable[[str, Path], Installation]  # by the access key of its calls, and the root
    recorder: Recorder
    names: tuple[str, ...] = ROOTS

    def client(self, service: str) -> Any:
        return boto3.client(service, **self._options())

    def root(
        self,
        name: str,
        environment: str,
        variables: Mapping[str, object] | None = None,
        state: State | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> Root:
        """Prepared to plan; the root's name is its access key, so that its calls are known."""
        work = self.folder / "work"
        terraform = self.terraform(name, work / environment / name / "roots" / name)
        if environ:
            variables_of = {**environ, **terraform.environment}
            terraform = replace(terraform, environment=variables_of)
        root = Root.open(
            name,
            environment,
            state=state or LocalState(self.folder / "state"),
            work=work,
            variables=variables,
            console=Console(file=StringIO(), width=140),
            installation=terraform,
        )
        root.init()
        return root

    def push_image(self, repository: str, label: str) -> str:
        """Puts a small image into a repository that exists; returns its URI by digest."""
        manifest = {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "size": 2},
            "layers": [],
            "annotations": {"org.opencontainers.image.version": label},
        }
        text = json.dumps(manifest)
        digest = f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"  # moto makes up another
        self.client("ecr").put_image(
            repositoryName=repository, imageManifest=text, imageTag=label, imageDigest=digest
        )
        return f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com/{repository}@{digest}"

    def _options(self) -> dict[str, str]:
        environment = self.cloud.environment
        return {
            "endpoint_url": self.cloud.endpoint_url,
            "region_name": REGION,
            "aws_access_key_id": environment["AWS_ACCESS_KEY_ID"],
            "aws_secret_access_key": environment["AWS_SECRET_ACCESS_KEY"],
        }


@contextmanager
def running_aws(folder: Path) -> Iterator[Aws]:
    """An empty account."""
    cloud = Cloud(folder, _no_launch, region=REGION)
    with recording() as recorder, cloud, patch.dict(os.environ), ExitStack() as stack:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            del os.environ[name]
        os.environ.update(cloud.environment | {"NO_PROXY": "127.0.0.1"})
        provider = Provider(require_terraform(), folder / "provider")

        @cache
        def terraform(access_key: str, root: Path) -> Installation:
            return stack.enter_context(provider.attached(root, AWS_ACCESS_KEY_ID=access_key))

        yield Aws(cloud, folder, terraform, recorder)


def _no_launch(digest: str, environment: Mapping[str, str]) -> Popen[bytes]:
    raise AssertionError(f"nobody calls a function here, but {digest} was to start")
