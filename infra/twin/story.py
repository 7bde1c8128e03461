"""The scenario of the twin: platform, callers, one good release, several bad ones."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import boto3
from rich.console import Console
from rich.markup import escape

from common.files import user_path, workspace_folder
from common.terminal import Progress
from infra.terraform.root import Root
from infra.terraform.service import ServiceOutputs, parse_service_outputs, read_outputs
from infra.terraform.state import LocalState
from infra.twin.cloud.cloud import Cloud
from infra.twin.deployment import PROMOTED, Deployer, Deployment, publish
from infra.twin.findings import Release, Traffic, callers, subscriber, watched_alias
from infra.twin.image.container import ImageStore, Registry, registry
from infra.twin.models import Candidate

ENV = "dev"
REPOSITORY = "kiln"  # as in Terraform's module `names`
# Unsupported by moto: budgets with a topic, and composite alarms.
WITHOUT = ("monthly_budget_usd=0", "burn_rate_alarms=false")
# The user's variables, unset so that no command uses another account.
UNSET = ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_CONFIG_FILE")
_WARM_S = 3.0  # seconds of traffic before and after a release


class Failed(Exception):
    """A step of the story failed."""


def output_folder(named: str | None) -> Path:
    """The folder for results, checked before the long run.

    Raises:
        Failed: it cannot be written.
    """
    folder = user_path(named) if named else workspace_folder() / ".kiln" / "twin"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as exc:
        raise Failed(
            f"{folder} cannot be written ({exc.strerror}): --out names another folder"
        ) from exc


class Narrator:
    """Reports progress, with the seconds since the start."""

    def __init__(self, console: Console) -> None:
        self.console, self._start = console, time.monotonic()
        self._progress = Progress("at it", console=console)

    @contextmanager
    def working(self) -> Iterator[None]:
        """Repeats every 20 s what is in progress, however silent it is."""
        with self._progress:
            yield

    def say(self, text: str, style: str = "") -> None:
        self._progress.update(detail=text)
        elapsed = time.monotonic() - self._start
        text = f"[{style}]{escape(text)}[/]" if style else escape(text)
        self.console.print(f"[dim]{elapsed:6.1f} s[/]  {text}", highlight=False, soft_wrap=True)

    def quote(self, line: str) -> None:
        """A line of another program's output."""
        self.console.print(f"[dim]          │ {escape(line)}[/]", highlight=False, soft_wrap=True)


@dataclass
class Platform:
    """The running platform: the registry, AWS, and Terraform's outputs."""

    cloud: Cloud
    registry: Registry
    store: ImageStore
    traffic: Traffic

    def client(self, service: str) -> Any:
        return boto3.client(service, endpoint_url=self.cloud.endpoint_url)


@contextmanager
def platform(folder: Path, seed: int, narrator: Narrator) -> Iterator[Platform]:
    """A registry, AWS on loopback, and an ECR repository made by Terraform."""
    traffic = Traffic()
    with ExitStack() as stack:
        server = stack.enter_context(registry(folder))
        narrator.say(f"registry on {server.address}")
        roots = folder / "roots"
        roots.mkdir()
        store = ImageStore(roots, server, REPOSITORY)
        cloud = stack.enter_context(Cloud(folder, store.launch, seed=seed, observe=traffic.saw))
        stack.enter_context(_variables(cloud.environment))
        narrator.say(f"AWS's APIs on {cloud.endpoint_url}, the HTTP API on {cloud.url}")
        with _applied_beside(folder, narrator) as apply:
            made = Platform(cloud, server, store, traffic)
            _wait_until_usable(made.client("ecr"), made.client("s3"), apply)
            narrator.say(f"Terraform made the ECR repository {REPOSITORY} and the ledger's bucket")
            yield made


@contextmanager
def _applied_beside(folder: Path, narrator: Narrator) -> Iterator[Future[None]]:
    """Applies the root `registry` in the background; it must finish within the block.

    Terraform's provider polls its buckets' lifecycles for 50 s, also on AWS, and nothing here
    depends on them.
    """

    def apply() -> None:
        root = Root.open(
            "registry",
            "account",
            state=LocalState(folder / "state"),
            work=folder / "registry",
            variables={"tls_only": False},  # loopback has no TLS
            console=Console(file=StringIO()),
        )
        root.init()
        root.apply(root.plan())
        narrator.say("Terraform is done with the account's root `registry`")

    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(apply)
        yield done
        done.result()


def _wait_until_usable(ecr: Any, s3: Any, apply: Future[None]) -> None:
    """Waits for the repository and the ledger's bucket.

    Raises:
        TerraformError: they are not created.
    """
    while True:
        ended = apply.done()
        found = [one["repositoryName"] for one in ecr.describe_repositories()["repositories"]]
        ledgers = [one["Name"] for one in s3.list_buckets()["Buckets"] if "ledger" in one["Name"]]
        if REPOSITORY in found and ledgers and _is_versioned(s3, ledgers[0]):
            return
        if ended:
            apply.result()
            raise Failed(f"Terraform's root `registry` made {found} in ECR and {ledgers} in S3")
        time.sleep(0.2)


def _is_versioned(s3: Any, bucket: str) -> bool:
    return bool(s3.get_bucket_versioning(Bucket=bucket).get("Status") == "Enabled")


@contextmanager
def _variables(values: Mapping[str, str]) -> Iterator[None]:
    """Sets variables that Terraform and the commands inherit, without the user's profile."""
    before = dict(os.environ)
    for name in UNSET:
        os.environ.pop(name, None)
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def push_all(
    candidates: Sequence[Candidate], platform: Platform, narrator: Narrator
) -> dict[str, str]:
    """Pushes all images; returns URIs by digest, by the candidate's name."""
    uris = {}
    for candidate in candidates:
        begun = time.monotonic()
        uri = publish(candidate.layout, platform.registry, platform.client("ecr"), REPOSITORY)
        uris[candidate.name] = uri
        digest = uri.rpartition("@")[2]
        platform.store.root(digest)  # as Lambda unpacks an image before its first call
        took = time.monotonic() - begun
        narrator.say(f"pushed {candidate.name} as {digest[:19]}…, unpacked, in {took:.1f} s")
    return uris


def first_release(uri: str, deployer: Deployer) -> ServiceOutputs:
    """Terraform creates the service, and the image goes live.

    Raises:
        Failed: the release was not promoted.
    """
    done = deployer.deploy(uri, "the twin's first release", "--strategy", "all-at-once")
    if done.exit_code != PROMOTED:
        raise Failed(f"the first release: exit code {done.exit_code}, {_told(done)}")
    return parse_service_outputs(read_outputs("service", ENV, LocalState(deployer.state)))


def _told(deployment: Deployment) -> str:
    result = deployment.result
    return str(result.get("error") or result.get("text"))


@contextmanager
def alive(
    platform: Platform, service: ServiceOutputs, load: Sequence[str], narrator: Narrator
) -> Iterator[None]:
    """Runs the block with callers, a subscriber of the topic, and an alias watcher."""
    traffic = platform.traffic
    with ExitStack() as stack:
        url = stack.enter_context(subscriber(traffic))
        platform.client("sns").subscribe(
            TopicArn=service.sns_topic_arn, Protocol="http", Endpoint=url
        )
        narrator.say(f"{url} subscribes to {service.sns_topic_arn.rpartition(':')[2]}")
        alias = watched_alias(
            platform.client("lambda"), service.function_name, service.alias_name, traffic
        )
        stack.enter_context(alias)
        program = stack.enter_context(callers(load, os.environ, traffic))
        while not traffic.responses:
            if program.poll() is not None:
                raise Failed(f"the callers ended with exit code {program.returncode}")
            time.sleep(0.1)
        time.sleep(_WARM_S)
        narrator.say(f"callers got {len(traffic.responses):,} answers in {_WARM_S:g} s")
        yield


def release(
    candidate: Candidate,
    uri: str,
    deployer: Deployer,
    platform: Platform,
    service: ServiceOutputs,
    narrator: Narrator,
) -> Release:
    """Runs one release under traffic, and a moment longer."""
    api = platform.client("lambda")
    stable = _live(api, service)
    kind = "a good release" if candidate.good else f"a bad release: {candidate.name}"
    narrator.say(kind, "bold")
    done = deployer.deploy(uri, f"the twin: {candidate.name}")
    time.sleep(_WARM_S)
    version = _version_of(api, service.function_name, uri)
    return Release(candidate.name, candidate.good, candidate.fails, done, version, stable)


def _live(api: Any, service: ServiceOutputs) -> str:
    found = api.get_alias(FunctionName=service.function_name, Name=service.alias_name)
    return str(found["FunctionVersion"])


def _version_of(api: Any, function: str, uri: str) -> str | None:
    """The newest published version of the image."""
    digest = uri.rpartition(":")[2]
    pages = api.get_paginator("list_versions_by_function").paginate(FunctionName=function)
    found = [
        version["Version"]
        for page in pages
        for version in page["Versions"]
        if version["CodeSha256"] == digest and version["Version"] != "$LATEST"
    ]
    return max(found, key=int, default=None)
