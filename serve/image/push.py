"""Push the image by its digest, and tag it.

Logs in to Amazon ECR by itself, with the credentials that the AWS command line would use; for
other registries `docker login` or `crane auth login` has been there before.
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

_ECR = re.compile(
    r"(?P<account>\d{12})\.dkr[.-]ecr(?:-fips)?\.(?P<region>[a-z0-9-]+)"
    r"\.(?:amazonaws\.com(?:\.cn)?|on\.aws|on\.amazonwebservices\.com\.cn)"
)
_EXAMPLES = """examples:
  bazel run //serve:push_image -- --repository 123456789012.dkr.ecr.eu-central-1.amazonaws.com/kiln
  bazel run //serve:push_image -- --repository localhost:5000/kiln --tag try --insecure
  bazel run --config=release --embed_label=v1.4.0 \\
      --//serve/image:repository=ghcr.io/me/kiln //serve:push_image
"""


class PushError(Exception):
    """The image was not pushed; the message says what to do."""


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    repository = options.repository or options.repository_file.read_text().strip()
    try:
        check(repository)
        with registry_login(repository.partition("/")[0]) as variables:
            push(options, repository, variables)
    except PushError as error:
        print(f"kiln: error: {error}", file=sys.stderr)
        return 2
    reference = f"{repository}@{options.digest.read_text().strip()}"
    print(f"pushed {reference}")
    if options.reference_file:
        place = Path(os.environ.get("BUILD_WORKING_DIRECTORY", "."), options.reference_file)
        place.write_text(reference + "\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bazel run //serve:push_image --",
        description=__doc__,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for hidden in ("--pusher", "--digest", "--repository-file"):  # by the BUILD file
        parser.add_argument(hidden, type=Path, required=True, help=argparse.SUPPRESS)
    parser.add_argument("-r", "--repository", help="registry and path, without a tag")
    parser.add_argument("-t", "--tag", action="append", default=[], help="may be given repeatedly")
    parser.add_argument("--insecure", action="store_true", help="a registry without TLS")
    parser.add_argument("--reference-file", help="file for REPOSITORY@DIGEST of what was pushed")
    return parser


def check(repository: str) -> None:
    """Raises:
    PushError: it is none, or has a tag or digest.
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


@contextmanager
def registry_login(host: str) -> Iterator[dict[str, str]]:
    """Variables with which `crane` may push to the host.

    Raises:
        PushError: ECR gives no token.
    """
    match = _ECR.fullmatch(host)
    if not match:
        yield {}
        return
    with docker_login(host, ecr_token(match["account"], match["region"])) as variables:
        yield variables


@contextmanager
def docker_login(host: str, token: str) -> Iterator[dict[str, str]]:
    """Docker's configuration with one password in it, for as long as the block runs."""
    with tempfile.TemporaryDirectory(prefix="kiln-") as folder:  # readable by this user alone
        config = {"auths": {host: {"auth": token}}}
        Path(folder, "config.json").write_text(json.dumps(config))
        yield {"DOCKER_CONFIG": folder}


def ecr_token(account: str, region: str) -> str:
    """The registry's user and password, in base64, good for twelve hours."""
    import boto3
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        answer = boto3.client("ecr", region_name=region).get_authorization_token(
            registryIds=[account]
        )
    except (BotoCoreError, ClientError) as error:
        raise PushError(
            f"Amazon ECR of account {account} in {region} gives no token: {error}\n"
            "Check with `aws sts get-caller-identity`; set AWS_PROFILE or `aws sso login`. "
            "The identity needs ecr:GetAuthorizationToken and the right to push to the repository."
        ) from error
    return str(answer["authorizationData"][0]["authorizationToken"])


def push(options: argparse.Namespace, repository: str, variables: dict[str, str]) -> None:
    command = [str(options.pusher.absolute()), "--repository", repository]
    command += [word for tag in options.tag for word in ("--tag", tag)]
    command += ["--insecure"] if options.insecure else []
    runfiles = str(Path(__file__).absolute().parents[3])
    environment = os.environ | {"RUNFILES_DIR": runfiles} | variables
    with suppress(KeyError):
        del environment["RUNFILES_MANIFEST_FILE"]
    if subprocess.run(command, env=environment).returncode:
        raise PushError(f"{repository} did not take the image; the lines above say why")


if __name__ == "__main__":
    sys.exit(main())
