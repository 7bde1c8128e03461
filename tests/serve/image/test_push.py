"""Pushing the image to a real registry."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from moto import mock_aws

from infra.supply_chain.registry import (
    LoginError,
    PushError,
    check,
    docker_login,
    ecr_token,
    main,
    registry_login,
)
from tests.serve.image import built
from tests.tools.image.registry import Registry, registry

pytestmark = built.needs_image

# What moto's ECR gives as its password, hashed for the registry.
_MOTO_USER = "AWS:$2b$05$abcdefghijklmnopqrstuu/4ofrUS75HrKu6f.iuRo0I/XlrmpqlC"


def run(server: Registry, pusher: str, digest: str, *more: str, where: str = "kiln") -> int:
    none = Path(os.environ["REPOSITORY"])
    return main(
        [
            f"--pusher={os.environ[pusher]}",
            f"--digest={os.environ[digest]}",
            f"--repository-file={none}",
            f"--repository={server.address}/{where}",
            *more,
        ]
    )


def test_a_push_can_be_pulled_back_and_an_edit_sends_one_small_layer(tmp_path: Path) -> None:
    digest = Path(os.environ["DIGEST"]).read_text().strip()
    with registry(tmp_path) as server:
        reference = tmp_path / "reference"
        options = ("--tag=v1", "--tag=stable", f"--reference-file={reference}")
        assert run(server, "PUSHER", "DIGEST", *options) == 0
        assert reference.read_text() == f"{server.address}/kiln@{digest}\n"

        found, content = server.manifest("kiln", "v1")
        manifest = json.loads(content)
        assert found == server.manifest("kiln", "stable")[0] == digest
        for part in (manifest["config"], *manifest["layers"]):
            content = server.blob("kiln", part["digest"])
            assert part["digest"] == f"sha256:{hashlib.sha256(content).hexdigest()}"

        before = server.bytes_received
        assert run(server, "PUSHER", "DIGEST") == 0
        again = server.bytes_received - before
        assert again < 50_000  # questions whether each layer is there

        before = server.bytes_received
        assert run(server, "EDITED_PUSHER", "EDITED_DIGEST", "--tag=v2") == 0
        sent = server.bytes_received - before
        _, content = server.manifest("kiln", "v2")
        edited = json.loads(content)
        application = edited["layers"][-1]["size"]
        assert application <= sent < application + 50_000
        assert sent < 1_000_000
        outputs = Path(os.environ.get("TEST_UNDECLARED_OUTPUTS_DIR", tmp_path))
        (outputs / "push.json").write_text(f'{{"sent_after_an_edit": {sent}, "again": {again}}}')


def test_a_registry_that_asks_who_is_there_refuses_a_stranger(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    with registry(tmp_path, _passwords(tmp_path)) as server:
        assert run(server, "PUSHER", "DIGEST") == 2


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    with mock_aws():
        yield


@pytest.mark.usefixtures("aws")
def test_the_token_of_ecr_opens_a_registry_that_asks_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = ecr_token("123456789012", "eu-central-1")
    with (
        registry(tmp_path, _passwords(tmp_path)) as server,
        docker_login(server.address, token) as variables,
    ):
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        assert run(server, "PUSHER", "DIGEST") == 0


@pytest.mark.usefixtures("aws")
def test_ecr_is_recognised_and_asked_in_its_own_region() -> None:
    boto3.client("ecr", "eu-west-3").create_repository(repositoryName="kiln")
    with registry_login("123456789012.dkr.ecr.eu-west-3.amazonaws.com") as variables:
        config = Path(variables["DOCKER_CONFIG"], "config.json")
        assert '"123456789012.dkr.ecr.eu-west-3.amazonaws.com": {"auth": ' in config.read_text()
        assert config.parent.stat().st_mode & 0o077 == 0
    assert not config.exists()


def _passwords(folder: Path) -> Path:
    path = folder / "htpasswd"
    path.write_text(_MOTO_USER + "\n")
    return path


def test_without_an_identity_the_user_is_told_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with (
        pytest.raises(LoginError, match="AWS_PROFILE"),
        registry_login("123456789012.dkr.ecr.eu-west-3.amazonaws.com"),
    ):
        pass


@pytest.mark.parametrize("host", ["ghcr.io", "localhost:5000", "1234.dkr.ecr.x.example.com"])
def test_other_registries_are_the_users_own_affair(host: str) -> None:
    with registry_login(host) as variables:
        assert variables == {}


@pytest.mark.parametrize("repository", ["", "kiln", "ghcr.io/kiln:v1", "ghcr.io/kiln@sha256:ab"])
def test_what_is_no_repository_is_refused(repository: str) -> None:
    with pytest.raises(PushError):
        check(repository)


def test_stamped_builds_are_tagged_and_others_are_not() -> None:
    assert Path(os.environ["TAGS"]).read_text() == ""


def test_help_shows_how_it_is_used() -> None:
    done = subprocess.run([os.environ["PUSH"], "--help"], capture_output=True, text=True)
    assert done.returncode == 0
    assert "dkr.ecr.eu-central-1.amazonaws.com/kiln" in done.stdout
