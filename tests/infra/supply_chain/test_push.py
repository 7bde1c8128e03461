"""Pushing to Amazon ECR, where tags never move: what a repeated job finds."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import boto3
import pytest
from moto import mock_aws

from infra.supply_chain import registry

HOST = "123456789012.dkr.ecr.eu-west-3.amazonaws.com"
PUSHER = """#!{python}
import pathlib, sys
pathlib.Path(sys.argv[0] + ".arguments").write_text("\\n".join(sys.argv[1:]))
"""


@pytest.fixture
def pusher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Stands for Bazel's, and for the registry behind it."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    path = tmp_path / "pusher"
    path.write_text(PUSHER.format(python=sys.executable))
    path.chmod(0o755)
    (tmp_path / "repository").write_text("")
    (tmp_path / "tags").write_text("v1.0.0\ngit-abc\n")
    with mock_aws():
        boto3.client("ecr", "eu-west-3").create_repository(
            repositoryName="kiln", imageTagMutability="IMMUTABLE"
        )
        yield path


def put(*tags: str) -> str:
    """An image that is there already; its digest."""
    ecr, digest = boto3.client("ecr", "eu-west-3"), ""
    for tag in tags:
        answer = ecr.put_image(
            repositoryName="kiln",
            imageManifest='{"schemaVersion": 2, "config": {}, "layers": []}',
            imageManifestMediaType="application/vnd.oci.image.manifest.v1+json",
            imageTag=tag,
        )
        digest = answer["image"]["imageId"]["imageDigest"]
    return digest


def run(pusher: Path, digest: str) -> int:
    (pusher.parent / "digest").write_text(f"{digest}\n")
    return registry.main(
        [
            f"--pusher={pusher}",
            f"--digest={pusher.parent / 'digest'}",
            f"--repository-file={pusher.parent / 'repository'}",
            f"--tags-file={pusher.parent / 'tags'}",
            f"--repository={HOST}/kiln",
        ]
    )


def tags_set(pusher: Path) -> list[str]:
    words = Path(f"{pusher}.arguments").read_text().splitlines()
    return [word for before, word in pairwise(words) if before == "--tag"]


def test_a_first_push_sets_every_tag(pusher: Path) -> None:
    assert run(pusher, f"sha256:{'1' * 64}") == 0
    assert tags_set(pusher) == ["v1.0.0", "git-abc"]


def test_a_job_that_is_repeated_sets_the_tags_that_the_image_does_not_have(pusher: Path) -> None:
    digest = put("v1.0.0")
    assert run(pusher, digest) == 0
    assert tags_set(pusher) == ["git-abc"]


def test_a_tag_of_another_image_is_named_before_anything_is_pushed(
    pusher: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    digest = put("v1.0.0")
    assert run(pusher, f"sha256:{'1' * 64}") == 2
    assert {"v1.0.0", digest} <= set(re.findall(r"v[\d.]+|sha256:\w+", capsys.readouterr().err))
    assert not Path(f"{pusher}.arguments").exists()


def test_ecr_that_does_not_say_what_it_holds_ends_the_push(pusher: Path) -> None:
    boto3.client("ecr", "eu-west-3").delete_repository(repositoryName="kiln", force=True)
    assert run(pusher, f"sha256:{'1' * 64}") == 2
    assert not Path(f"{pusher}.arguments").exists()
