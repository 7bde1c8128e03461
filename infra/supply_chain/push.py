"""Pushes an image that this workspace builds by its digest, and tags it.

Logs in to Amazon ECR with the AWS CLI's credentials; log in to other registries first by `docker
login` or `crane auth login`.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from common.command_line import command_parser
from common.files import user_path
from infra.supply_chain.ecr import LoginError, TagTaken, registry_login, tags_to_set

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
