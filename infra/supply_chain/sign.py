"""Signs the pushed image and attests what it was built from.

  bazel run //serve:push_image -- --repository REPO --reference-file /tmp/reference
  bazel run //serve:sign_image -- $(cat /tmp/reference) --key cosign.key
  bazel run //serve:sign_image -- REPO@sha256:… --key awskms:///alias/kiln-signing
  bazel run //infra:sign_watch_image -- REPO@sha256:… --key …    the watcher
  bazel run //serve:sign_image -- --new-key keys/     writes cosign.key and cosign.pub there

The statement links the image's digest to the commit, the lock and the model inside, and to that
model's dataset, configuration and metrics. Only the image built from this workspace can be signed,
since nothing is known about others. COSIGN_PASSWORD decrypts a private key file.

Exit codes: 0 signed, 1 not signed, 2 bad input.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from common.command_line import command_parser
from common.files import user_path, workspace_folder
from common.model.artifact import read_artifact
from common.terminal import Progress
from infra.supply_chain.provenance import (
    SERVICE,
    WATCHER,
    Model,
    Provenance,
    commit_of,
    repository_of,
)
from infra.supply_chain.registry import LoginError, RunAs
from infra.supply_chain.signature import CosignError, bill_digest, generate_keys, sign

NOT_SIGNED, BAD_INPUT = 1, 2  # exit codes
LOCAL_BUILDER = "urn:kiln:builder:local"


def describe(model: bytes | None, lock: bytes, sbom: bytes, workspace: Path) -> Provenance:
    """The provenance of an image built here and now.

    Args:
        model: the service's; None for the watcher's image, which holds none.

    Raises:
        ArtifactError: the model is damaged.
        ValueError: the bill of materials is not JSON.
    """
    builder, run = builder_and_run(os.environ)
    return Provenance(
        repository=repository_of(workspace),
        commit=commit_of(workspace),
        lock=hashlib.sha256(lock).hexdigest(),
        sbom=bill_digest(json.loads(sbom)),
        model=_model(model) if model else None,
        target=SERVICE if model else WATCHER,
        builder=builder,
        run=run,
        finished=f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",  # as cosign writes it
    )


def _model(data: bytes) -> Model:
    metadata = read_artifact(data)
    scores = metadata.test_metrics
    return Model(
        version=metadata.version,
        name=metadata.name,
        quantisation=metadata.quantisation,
        sha256=hashlib.sha256(data).hexdigest(),
        git_revision=metadata.git_revision,
        config_digest=metadata.config_digest,
        dataset_digest=metadata.dataset_digest,
        lock_digest=metadata.lock_digest,
        device=metadata.device,
        precision=metadata.precision,
        test_images=scores.images,
        test_accuracy=scores.accuracy,
        test_macro_f1=scores.macro_f1,
        test_loss=scores.loss,
        test_calibration_error=scores.calibration_error,
    )


def builder_and_run(environment: Mapping[str, str]) -> tuple[str, str]:
    """URIs of the workflow and its run on GitHub Actions; elsewhere `LOCAL_BUILDER` and ""."""
    try:
        server, workflow = environment["GITHUB_SERVER_URL"], environment["GITHUB_WORKFLOW_REF"]
        run = "{GITHUB_REPOSITORY}/actions/runs/{GITHUB_RUN_ID}".format_map(environment)
    except KeyError:
        return LOCAL_BUILDER, ""
    return f"{server}/{workflow}", f"{server}/{run}"


def main(arguments: Sequence[str]) -> int:
    parser = _options()
    options = parser.parse_args(arguments)
    try:
        if options.new_key:
            private, public = generate_keys(user_path(options.new_key))
            print(f"wrote {private} (keep it secret, set COSIGN_PASSWORD) and {public}")
            return 0
        if not options.reference or not options.key:
            parser.error("REFERENCE and --key are needed")
        return _sign(options)
    except (CosignError, LoginError) as error:
        print(f"sign: {options.reference or 'no key'}: {error}", file=sys.stderr)
        return NOT_SIGNED
    except (ValueError, OSError) as error:
        print(f"sign: {error}", file=sys.stderr)
        return BAD_INPUT


def _sign(options: argparse.Namespace) -> int:
    built = options.digest.read_text(encoding="utf-8").strip()
    if not options.reference.endswith(f"@{built}"):
        raise ValueError(f"this workspace builds {built}; push that, and sign what was pushed")
    lock, sbom = options.lock.read_bytes(), options.sbom.read_bytes()
    model = options.model.read_bytes() if options.model else None
    made = describe(model, lock, sbom, workspace_folder())
    key = options.key if "://" in options.key else str(user_path(options.key))
    with Progress("signing"):
        sign(options.reference, key, made, json.loads(sbom), insecure=options.insecure)
    print(f"signed {options.reference}")
    inside = f"model {made.model.version[:12]}" if made.model else "no model"
    print(f"  commit {made.commit or 'unknown'}, {inside}")
    return 0


def _options() -> argparse.ArgumentParser:
    parser = command_parser("//serve:sign_image", __doc__)
    parser.add_argument("--run-as", action=RunAs, help=argparse.SUPPRESS)
    for hidden in ("--digest", "--lock", "--sbom"):  # set by the BUILD file
        parser.add_argument(hidden, type=Path, required=True, help=argparse.SUPPRESS)
    parser.add_argument("--model", type=Path, help=argparse.SUPPRESS)  # none in the watcher
    parser.add_argument(
        "reference", nargs="?", help="registry/path@sha256:…, as push_image prints it"
    )
    parser.add_argument("--key", help="private key: a file, or awskms:///alias/NAME")
    parser.add_argument("--new-key", metavar="FOLDER", help="generate a key pair instead")
    parser.add_argument("--insecure", action="store_true", help="allow a registry without TLS")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
