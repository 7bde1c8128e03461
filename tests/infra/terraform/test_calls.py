"""What the programs really call in AWS, compared with the policies that they are given."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from io import StringIO
from pathlib import Path
from subprocess import Popen

import pytest
from rich.console import Console

from common.stores import open_store
from infra.release.commands import shadow
from infra.supply_chain.registry import ecr_token
from infra.terraform.root import Root
from infra.terraform.state import LocalState
from infra.twin.cloud.cloud import Cloud
from tests.infra.release.bare import BUCKET
from tests.infra.release.world import World
from tests.infra.terraform.aws import ACCOUNT, REGION, require_terraform
from tests.infra.terraform.policies import allowed, documents
from tests.infra.terraform.provider import Provider
from tests.infra.terraform.recording import Recorder, recording
from tests.infra.twin.cloud.functions import Functions, client

KEY = f"arn:aws:kms:{REGION}:{ACCOUNT}:key/01234567-89ab-cdef-0123-456789abcdef"
BY_KEY = {"kms:Decrypt", "kms:GenerateDataKey"}  # S3 calls them in the name of who reads and writes
FREE = {"sts:GetCallerIdentity"}  # AWS allows it to everybody
STAND_IN = {"lambda:UpdateFunctionCode"}  # what puts the image there instead of Terraform here
NOT_SEEN = {
    "ecr:BatchGetImage": "cosign reads an image's signature by Docker's protocol",
    "ecr:DescribeRepositories": "an image that is named by its digest alone",
    "ecr:GetAuthorizationToken": "cosign's login",
    "ecr:GetDownloadUrlForLayer": "cosign, as above",
}
PUSHED_BY_CRANE = {  # the calls behind Docker's protocol, which a registry of AWS alone asks for
    "ecr:BatchCheckLayerAvailability",
    "ecr:BatchGetImage",
    "ecr:CompleteLayerUpload",
    "ecr:GetDownloadUrlForLayer",
    "ecr:InitiateLayerUpload",
    "ecr:PutImage",
    "ecr:UploadLayerPart",
}


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    with recording() as found:
        yield found


@pytest.fixture
def world(recorder: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """A cloud; what a test calls under the access key `program` is noted."""
    functions = Functions(tmp_path)
    with Cloud(tmp_path, functions.launch, region=REGION) as cloud:
        for name, value in cloud.environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "program")
        location = {"LocationConstraint": REGION}
        client(cloud, "s3").create_bucket(Bucket=BUCKET, CreateBucketConfiguration=location)
        yield World(cloud, functions, tmp_path)


@pytest.fixture(scope="module")
def policies(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What the root `github` gives to whom: role/policy to JSON; `publishing` is for people."""
    folder = tmp_path_factory.mktemp("github")
    with Cloud(folder, _no_launch, region=REGION) as cloud, pytest.MonkeyPatch.context() as patch:
        for name, value in cloud.environment.items():
            patch.setenv(name, value)
        patch.setenv("NO_PROXY", "127.0.0.1")
        provider = Provider(require_terraform(), folder / "provider")
        with provider.attached(folder) as terraform:
            root = Root.open(
                "github",
                "account",
                state=LocalState(folder / "state"),
                work=folder / "work",
                variables={"repository": "owner/name", "signing_key_arn": KEY, "kms_key_arn": KEY},
                console=Console(file=StringIO()),
                installation=terraform,
            )
            root.init()
            planned = root.show(root.plan())["planned_values"]
    found = dict(documents({"values": planned}))
    prefix = "aws_iam_policy.this["
    publishing = planned["outputs"]["publishing_policies"]["value"]
    return {f"publishing/{name}": document for name, document in publishing.items()} | {
        address.removeprefix(prefix).partition("]")[0].strip('"'): document
        for address, document in found.items()
        if address.startswith(prefix)
    }


def test_the_model_registry_calls_what_it_may_and_nothing_else(
    world: World, recorder: Recorder, policies: dict[str, str]
) -> None:
    """Its store is the one place where it meets S3."""
    store = open_store(f"s3://{BUCKET}/registry")
    assert store.create("a", b"1")
    assert not store.create("a", b"2")
    assert store.read("a") == b"1"
    assert [stored.key for stored in store.entries("")] == ["a"]
    store.delete("a")
    with pytest.raises(KeyError):
        store.read("a")
    assert recorder.actions("program") == allowed(policies["publishing/registry"]) - BY_KEY


def test_a_push_calls_what_it_may_and_nothing_else(
    world: World, recorder: Recorder, policies: dict[str, str]
) -> None:
    assert ecr_token(ACCOUNT, REGION)
    called = recorder.actions("program") | PUSHED_BY_CRANE
    assert called == allowed(policies["build/push_image"])


def test_a_release_calls_what_it_may_and_nothing_else(
    world: World, recorder: Recorder, policies: dict[str, str]
) -> None:
    """A canary that is promoted, one that goes back, a look at the state, and shadow traffic."""
    world.create(world.push("a" * 64))
    client(world.cloud, "lambda").put_function_event_invoke_config(
        FunctionName=world.name, Qualifier="live", MaximumRetryAttempts=0
    )
    with world.traffic():
        good = world.deploy(world.push("b" * 64))
        assert good.code == 0, good.log
        bad = world.deploy(world.push("c" * 64, failing=0.5))
        assert bad.code == 20, bad.log
    world.rollback("--to", "1")
    world.status()
    compared = world.run(
        shadow.main,
        "--candidate",
        "2",
        "--golden",
        str(world.golden),
        "--share",
        "0.05",
        "--wait",
        "5",
    )
    assert compared.code in (0, 1), compared.log

    called = recorder.actions("program") - FREE - STAND_IN
    may = allowed(policies["staging/release"]) - BY_KEY
    assert called - may == set(), "the policy lacks what a release calls"
    assert may - called == set(NOT_SEEN), "the policy allows what no release calls"


def test_every_policy_is_one_that_iam_takes(policies: dict[str, str]) -> None:
    """6,144 characters each, blanks apart, and ten policies a role; all have the key's part."""
    roles = Counter(name.partition("/")[0] for name in policies)
    assert roles["staging"] == 4
    assert max(roles.values()) <= 10
    sizes = {name: len("".join(document.split())) for name, document in policies.items()}
    assert max(sizes.values()) <= 6_144, sizes


def _no_launch(digest: str, environment: Mapping[str, str]) -> Popen[bytes]:
    raise AssertionError("nobody calls a function here")
