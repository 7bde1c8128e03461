"""release.yml and rollback.yml from their first step to their last, with the real commands."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore import UNSIGNED
from botocore.config import Config
from moto.sts.models import STSBackend
from moto.sts.responses import TokenResponse
from rich.console import Console

from infra.terraform.root import Root
from infra.terraform.state import LocalState
from infra.twin.cloud.cloud import Cloud
from tests.infra.release.killed import SHORT
from tests.infra.release.world import World
from tests.infra.terraform.aws import ACCOUNT, REGION, require_terraform
from tests.infra.terraform.policies import documents, is_allowed
from tests.infra.terraform.provider import VARIABLE, Provider
from tests.infra.terraform.recording import Recorder, recording
from tests.infra.terraform.trust import trusts
from tests.infra.twin.cloud.functions import Functions, client
from tests.tools.workflows.rehearsal import (
    REPOSITORY,
    Github,
    claims,
    open_github,
    stand_ins,
)

KEY = f"arn:aws:kms:{REGION}:{ACCOUNT}:key/01234567-89ab-cdef-0123-456789abcdef"
STATES, LEDGERS = (f"kiln-{ACCOUNT}-{REGION}-{what}" for what in ("state", "ledger"))
ECR = f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com/kiln"
ENVIRONMENTS = ("build", "production", "staging")
FREE = {"sts:AssumeRoleWithWebIdentity", "sts:GetCallerIdentity"}


@dataclass
class Rehearsal:
    """The cloud, GitHub in front of it, and what the roles of its jobs may do and did."""

    world: World
    github: Github
    recorder: Recorder
    policies: dict[str, str]
    keys: dict[str, str]  # access key to environment

    def build(self, model: str) -> str:
        """The image that the next release builds; its digest."""
        digest = self.world.push(model).rpartition("@")[2]
        (self.github.folder / "digest").write_text(f"{digest}\n")
        watcher = self.world.push(f"{model[:-1]}w").rpartition("@")[2]
        (self.github.folder / "watcher").write_text(f"{watcher}\n")
        return digest

    def watchers(self) -> dict[str, str]:
        """Digests of the images that look after releases, by function."""
        lambda_ = client(self.world.cloud, "lambda")
        names = ("kiln-staging-watch", "kiln-prod-watch")
        found = {name: lambda_.get_function(FunctionName=name)["Code"] for name in names}
        return {name: code["ImageUri"].rpartition("@")[2] for name, code in found.items()}

    def called(self, environment: str) -> set[tuple[str, str]]:
        """Actions that its jobs needed, each with the ARN of what it was on, if that is known."""
        keys = [key for key, name in self.keys.items() if name == environment]
        needed = set().union(*(self.recorder.needed(key) for key in keys))
        return {(action, resource) for action, resource in needed if action not in FREE}

    def denied(self, environment: str) -> set[tuple[str, str]]:
        """Those that its role is not allowed."""
        prefix = f'aws_iam_policy.this["{environment}/'
        mine = [text for name, text in self.policies.items() if name.startswith(prefix)]
        return {call for call in self.called(environment) if not is_allowed(mine, *call)}


@pytest.fixture
def rehearsal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rehearsal]:
    functions = Functions(tmp_path)
    with recording() as recorder, Cloud(tmp_path, functions.launch, region=REGION) as cloud:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            monkeypatch.delenv(name)
        for name, value in {**cloud.environment, "NO_PROXY": "127.0.0.1"}.items():
            monkeypatch.setenv(name, value)
        location = {"LocationConstraint": REGION}
        for bucket in (STATES, LEDGERS):
            client(cloud, "s3").create_bucket(Bucket=bucket, CreateBucketConfiguration=location)
        with Provider(require_terraform(), tmp_path / "provider").attached(tmp_path) as terraform:
            policies = planned_policies(tmp_path, terraform)
            keys = let_in(monkeypatch, policies)
            runner = {
                **{name: value for name, value in cloud.environment.items() if "KEY" not in name},
                **stand_ins(tmp_path, ""),
                "NO_PROXY": "127.0.0.1",
                "PATH": f"{Path(terraform.program).parent}:{os.defpath}",
                "PYTHONPATH": os.pathsep.join(os.path.abspath(path) for path in sys.path),
                "REHEARSAL_GOLDEN": str(tmp_path / "golden.zip"),
                "REHEARSAL_PACE": str(tmp_path),
                VARIABLE: terraform.environment[VARIABLE],
            }
            for environment in ("staging", "prod"):
                (tmp_path / f"{environment}.toml").write_text(SHORT)
            github = Github(tmp_path, settings(), {}, sign_in, runner)
            with open_github(github):
                world = World(cloud, functions, tmp_path)
                yield Rehearsal(world, github, recorder, policies, keys)


def settings() -> dict[str, dict[str, str]]:
    """Variables of each environment, as infra/terraform/README.md has them set."""
    return {
        environment: {
            "AWS_REGION": REGION,
            "AWS_ROLE": f"arn:aws:iam::{ACCOUNT}:role/kiln-github-{environment}",
            "ECR_REPOSITORY": ECR,
            "KILN_TERRAFORM_STATE": f"s3://{STATES}",
            "SIGNING_KEY": "awskms:///alias/kiln-signing",
        }
        for environment in ENVIRONMENTS
    }


def planned_policies(folder: Path, terraform: Any) -> dict[str, str]:
    """Of Terraform's root `github`: address to JSON."""
    root = Root.open(
        "github",
        "account",
        state=LocalState(folder / "github"),
        work=folder / "work",
        variables={"repository": REPOSITORY, "create_provider": False, "signing_key_arn": KEY},
        console=Console(file=StringIO()),
        installation=terraform,
    )
    root.init()
    return dict(documents({"values": root.show(root.plan())["planned_values"]}))


def let_in(monkeypatch: pytest.MonkeyPatch, policies: dict[str, str]) -> dict[str, str]:
    """STS that asks the roles whom they trust; gives whose the credentials are, by access key."""
    keys: dict[str, str] = {}
    answer, assume = (
        TokenResponse.assume_role_with_web_identity,
        STSBackend.assume_role_with_web_identity,
    )

    def check(self: Any) -> Any:
        name = self._get_param("RoleArn").rpartition("kiln-github-")[2]
        trust = policies[f'aws_iam_role.this["{name}"].assume_role_policy']
        assert trusts(trust, claims(self._get_param("WebIdentityToken")))
        return answer(self)

    def note(self: Any, **given: Any) -> Any:
        role = assume(self, **given)
        keys[role.access_key_id] = given["role_arn"].rpartition("kiln-github-")[2]
        return role

    monkeypatch.setattr(TokenResponse, "assume_role_with_web_identity", check)
    monkeypatch.setattr(STSBackend, "assume_role_with_web_identity", note)
    return keys


def sign_in(role: str, token: str) -> dict[str, str]:
    """What aws-actions/configure-aws-credentials does."""
    sts = boto3.client("sts", config=Config(signature_version=UNSIGNED))
    found = sts.assume_role_with_web_identity(
        RoleArn=role, RoleSessionName="GitHubActions", WebIdentityToken=token
    )["Credentials"]
    return {
        "AWS_ACCESS_KEY_ID": found["AccessKeyId"],
        "AWS_SECRET_ACCESS_KEY": found["SecretAccessKey"],
        "AWS_SESSION_TOKEN": found["SessionToken"],
    }


def test_two_releases_and_a_rollback_by_the_workflows_own_steps(rehearsal: Rehearsal) -> None:
    github, world = rehearsal.github, rehearsal.world
    done = dict.fromkeys(("image", "staging", "production", "tell"), "success")
    digests = []
    for number, tag in enumerate(("v1.0.0", "v1.1.0"), start=1):
        digests.append(rehearsal.build("ab"[number - 1] * 64))
        assert github.run("release", tag) == done
        assert live(world) == {"kiln-staging": {str(number): 1.0}, "kiln-prod": {str(number): 1.0}}
        watcher = (github.folder / "watcher").read_text().strip()
        assert rehearsal.watchers() == dict.fromkeys(
            ("kiln-staging-watch", "kiln-prod-watch"), watcher
        )
    assert digests[0] != digests[1]
    assert github.run("rollback", environment="production", version="", reason="slow") == {
        "rollback": "success"
    }
    assert live(world) == {"kiln-staging": {"2": 1.0}, "kiln-prod": {"1": 1.0}}
    assert [message["text"] for message in github.messages] == [
        "*Release v1.0.0*: done",
        "*Release v1.1.0*: done",
    ]
    assert set(rehearsal.keys.values()) == set(ENVIRONMENTS)
    for environment in ENVIRONMENTS:
        assert rehearsal.denied(environment) == set(), environment
    assert {resource for _, resource in rehearsal.called("staging")} >= {
        f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:kiln-staging",
        f"arn:aws:sns:{REGION}:{ACCOUNT}:kiln-staging-alarms",
    }
    staging = rehearsal.called("staging")
    rehearsal.keys |= dict.fromkeys(rehearsal.keys, "production")
    assert {action for action, _ in staging & rehearsal.denied("production")} >= {
        "lambda:UpdateAlias",
        "s3:PutObject",
        "sns:Publish",
    }


def live(world: World) -> dict[str, dict[str, float]]:
    """Where each environment's traffic goes."""
    found = {}
    for name in ("kiln-staging", "kiln-prod"):
        alias = client(world.cloud, "lambda").get_alias(FunctionName=name, Name="live")
        others = (alias.get("RoutingConfig") or {}).get("AdditionalVersionWeights") or {}
        found[name] = {alias["FunctionVersion"]: 1 - sum(others.values()), **others}
    return found
