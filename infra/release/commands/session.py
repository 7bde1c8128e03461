"""One environment and everything that its commands use."""

from __future__ import annotations

import argparse
from functools import cached_property
from pathlib import Path

from common.aws import S3Store
from common.files import user_path
from common.golden import GoldenSet, GoldenSetError, read_golden_set
from common.processes import this_user
from infra.release.aws.clients import Aws, WallClock, explained
from infra.release.aws.function import LambdaFunction
from infra.release.commands.command import Terminal
from infra.release.errors import ReleaseError
from infra.release.evidence.collector import Collector
from infra.release.rollout.notices import Notices
from infra.release.rollout.preflight import Image, parse_image
from infra.release.settings import Settings, read_settings
from infra.release.state.journal import Journal
from infra.release.state.lease import Lease
from infra.release.state.ledger import Ledger
from infra.terraform.outputs import ServiceOutputs

_GOLDEN_SET = Path(__file__).parents[1] / "golden_set.zip"


class Session:
    """What Terraform's outputs lead to."""

    def __init__(
        self, env: str, settings: Settings, aws: Aws, outputs: ServiceOutputs, terminal: Terminal
    ) -> None:
        self.env, self.settings, self.aws, self.outputs = env, settings, aws, outputs
        self.who, self.clock, self.terminal = this_user(), WallClock(), terminal
        self.function = LambdaFunction(aws, outputs.function_name, outputs.alias_name)

    @cached_property
    def store(self) -> S3Store:
        """Where ledger and lease are."""
        return self.aws.bucket(self.outputs.ledger_bucket, self.outputs.ledger_prefix)

    @cached_property
    def lease(self) -> Lease:
        return Lease(self.store, self.settings.lease_s)

    @cached_property
    def collector(self) -> Collector:
        return Collector(self.aws, self.function.name, self.function.alias_name)

    @cached_property
    def notices(self) -> Notices:
        def warn(text: str) -> None:
            self.terminal.log.print(text, style="yellow", markup=False, soft_wrap=True)

        return Notices(self.aws, self.function.name, self.outputs.sns_topic_arn, warn)

    def journal(self) -> Journal:
        """The ledger as it is now."""
        return Journal(Ledger(self.store), self.who, self.clock)


def settings_of(options: argparse.Namespace) -> Settings:
    """The environment's, or of the file that the user names."""
    return read_settings(options.env, user_path(options.config) if options.config else None)


def aws_of(settings: Settings, outputs: ServiceOutputs | None) -> Aws:
    """The AWS session, in the environment's region once that is known."""
    return Aws(outputs.region if outputs else None, settings.invoke_timeout_s)


def golden_of(name: str | None) -> GoldenSet | None:
    """The bundled golden set, another file, or none."""
    if name == "none":
        return None
    try:
        return read_golden_set(user_path(name) if name else _GOLDEN_SET)
    except GoldenSetError as exc:
        raise ReleaseError(str(exc)) from exc


def image_of(text: str, aws: Aws, outputs: ServiceOutputs | None) -> Image:
    """An image from its URI, or from its digest in the environment's repository."""
    if not text.startswith("sha256:"):
        return parse_image(text)
    if outputs is None:
        raise ReleaseError(
            "nothing is deployed yet, so the repository is not known: expected "
            "REPOSITORY@sha256:…, as `bazel run //serve:push_image` prints it"
        )
    with explained("ECR"):
        found = aws.ecr.describe_repositories(repositoryNames=[outputs.ecr_repository])
    return parse_image(text, found["repositories"][0]["repositoryUri"])


def required(outputs: ServiceOutputs | None, env: str) -> ServiceOutputs:
    """ReleaseError if the environment was never applied to the end."""
    if outputs is None:
        raise ReleaseError(
            f"{env} was never deployed, or not to the end, or its Terraform state is elsewhere "
            f"(--state): `bazel run //infra:deploy -- --env {env} --image …`"
        )
    return outputs
