"""Pushes an image that this workspace builds by its digest, and tags it.

Logs in to Amazon ECR with the AWS CLI's credentials; log in to other registries first by `docker
login` or `crane auth login`.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from common.command_line import command_parser
from common.files import user_path

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


_EXAMPLES = """examples:
  bazel run //serve:push_image -- --repository 123456789012.dkr.ecr.eu-central-1.amazonaws.com/kiln
  bazel run //serve:push_image -- --repository localhost:5000/kiln --tag try --insecure
  bazel run //infra:push_watch_image -- --repository ….dkr.ecr.eu-central-1.amazonaws.com/kiln
  bazel run --config=release --embed_label=v1.4.0 \\
      --//serve/image:repository=ghcr.io/me/kiln //serve:push_image
"""


class PushError(Exception):
    """The image was not pushed; the message says what to do."""


class RunAs(argparse.Action):
    """The label that the user typed, for the usage line: one program serves two targets."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: object,
        option_string: str | None = None,
    ) -> None:
        parser.prog = f"bazel run {values} --"


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    repository = options.repository or options.repository_file.read_text().strip()
    digest = options.digest.read_text().strip()
    tags = [*options.tag, *(options.tags_file.read_text().split() if options.tags_file else ())]
    try:
        check(repository)
        with registry_login(repository.partition("/")[0]) as variables:
            tags = tags_to_set(repository, digest, tags)
            push(options, repository, tags, variables)
    except (PushError, LoginError, TagTaken) as error:
        print(f"kiln: error: {error}", file=sys.stderr)
        return 2
    reference = f"{repository}@{digest}"
    print(f"pushed {reference}")
    if options.reference_file:
        user_path(options.reference_file).write_text(reference + "\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("//serve:push_image", __doc__, _EXAMPLES)
    parser.add_argument("--run-as", action=RunAs, help=argparse.SUPPRESS)
    for hidden in ("--pusher", "--digest", "--repository-file"):  # set by the BUILD file
        parser.add_argument(hidden, type=Path, required=True, help=argparse.SUPPRESS)
    parser.add_argument("--tags-file", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("-r", "--repository", help="registry and path, without a tag")
    parser.add_argument("-t", "--tag", action="append", default=[], help="repeatable")
    parser.add_argument("--insecure", action="store_true", help="allow a registry without TLS")
    parser.add_argument("--reference-file", help="write REPOSITORY@DIGEST to this file")
    return parser


def check(repository: str) -> None:
    """Checks the form of a repository's name.

    Raises:
        PushError: it is malformed, or has a tag or digest.
    """
    if not repository:
        raise PushError(
            "no repository: pass --repository, or build with --//serve/image:repository=…"
        )
    _, _, path = repository.partition("/")
    if not path or ":" in path or "@" in path or "://" in repository:
        raise PushError(
            f"expected a repository as registry.example.org/kiln, without a tag, got {repository!r}"
        )


def push(
    options: argparse.Namespace, repository: str, tags: Sequence[str], variables: dict[str, str]
) -> None:
    command = [str(options.pusher.absolute()), "--repository", repository]
    command += [word for tag in tags for word in ("--tag", tag)]
    command += ["--insecure"] if options.insecure else []
    runfiles = str(Path(__file__).absolute().parents[3])
    environment = os.environ | {"RUNFILES_DIR": runfiles} | variables
    with suppress(KeyError):
        del environment["RUNFILES_MANIFEST_FILE"]
    if subprocess.run(command, env=environment).returncode:
        raise PushError(f"{repository} rejected the image; see the lines above")


if __name__ == "__main__":
    sys.exit(main())
