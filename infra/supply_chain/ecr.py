"""Amazon ECR: credentials in the form that `crane` and `cosign` read, and the tags of an image."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

_ECR = re.compile(
    r"(?P<account>\d{12})\.dkr[.-]ecr(?:-fips)?\.(?P<region>[a-z0-9-]+)"
    r"\.(?:amazonaws\.com(?:\.cn)?|on\.aws|on\.amazonwebservices\.com\.cn)"
)

_MANIFESTS = [
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
]


class LoginError(Exception):
    """The registry gave no credentials; the message says what to do."""


class TagTaken(Exception):
    """A tag belongs to another image; the message says what to do."""


@contextmanager
def registry_login(host: str) -> Iterator[dict[str, str]]:
    """Environment variables with which `crane` may push to the host.

    Raises:
        LoginError: ECR refuses a token.
    """
    place = ecr_place(host)
    if not place:
        yield {}
        return
    with docker_login(host, ecr_token(*place)) as variables:
        yield variables


def ecr_place(host: str) -> tuple[str, str] | None:
    """Account and region of an Amazon ECR; None for another registry."""
    match = _ECR.fullmatch(host)
    return (match["account"], match["region"]) if match else None


@contextmanager
def docker_login(host: str, token: str) -> Iterator[dict[str, str]]:
    """A temporary Docker configuration with one credential."""
    with tempfile.TemporaryDirectory(prefix="kiln-") as folder:  # readable by this user only
        config = {"auths": {host: {"auth": token}}}
        Path(folder, "config.json").write_text(json.dumps(config))
        yield {"DOCKER_CONFIG": folder}


def ecr_token(account: str, region: str) -> str:
    """The registry's user and password in base64, valid for twelve hours."""
    import boto3
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        answer = boto3.client("ecr", region_name=region).get_authorization_token(
            registryIds=[account]
        )
    except (BotoCoreError, ClientError) as error:
        raise LoginError(
            f"Amazon ECR of account {account} in {region} gives no token: {error}\n"
            "Check with `aws sts get-caller-identity`; set AWS_PROFILE or `aws sso login`. "
            "The identity needs ecr:GetAuthorizationToken and the right to push to the repository."
        ) from error
    return str(answer["authorizationData"][0]["authorizationToken"])


def tags_to_set(repository: str, digest: str, tags: Sequence[str]) -> list[str]:
    """The tags that the image does not have yet.

    Amazon ECR refuses to set an existing tag, even to the same image: a repeated job would fail
    because its first run succeeded.

    Raises:
        TagTaken: a tag belongs to another image.
        LoginError: ECR cannot be asked.
    """
    host, _, path = repository.partition("/")
    place = ecr_place(host)
    if not place or not tags:
        return list(tags)
    there = _tagged(*place, path, tags)
    for tag in tags:
        if there.get(tag, digest) != digest:
            raise TagTaken(
                f"{repository}:{tag} is {there[tag]}, and this workspace builds {digest}: tags are "
                "never moved, so release it under another name"
            )
    return [tag for tag in tags if tag not in there]


def _tagged(account: str, region: str, path: str, tags: Sequence[str]) -> dict[str, str]:
    """The digest of each of these tags that exists."""
    import boto3
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        found = boto3.client("ecr", region_name=region).batch_get_image(
            registryId=account,
            repositoryName=path,
            imageIds=[{"imageTag": tag} for tag in dict.fromkeys(tags)],
            acceptedMediaTypes=_MANIFESTS,
        )
    except (BotoCoreError, ClientError) as error:
        raise LoginError(f"Amazon ECR does not list the tags of {path}: {error}") from error
    names = (image["imageId"] for image in found["images"])
    return {name["imageTag"]: name["imageDigest"] for name in names}
