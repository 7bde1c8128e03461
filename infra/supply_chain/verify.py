"""Verifies an image's signature and shows its provenance.

  bazel run //serve:verify_image -- REPO@sha256:… --key cosign.pub
  bazel run //serve:verify_image -- REPO@sha256:… --key cosign.pub --json
  bazel run //serve:verify_image -- REPO@sha256:… --key cosign.pub \
      --builder https://github.com/me/kiln/.github/workflows/release.yml@refs/tags/

Exit codes: 0 trusted, 1 not trusted, 2 bad input.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict

from common.command_line import command_parser
from common.files import user_path
from common.terminal import Progress
from infra.supply_chain.provenance import SERVICE, WATCHER, Model, Provenance
from infra.supply_chain.registry import LoginError
from infra.supply_chain.signature import Expectation, NotTrusted, verify

NOT_TRUSTED, BAD_INPUT = 1, 2  # exit codes


def main(arguments: Sequence[str]) -> int:
    options = _options().parse_args(arguments)
    expected = Expectation(
        options.builder,
        options.commit,
        options.model_version,
        options.allow_dirty,
        WATCHER if options.watcher else SERVICE,
    )
    key = options.key if "://" in options.key else user_path(options.key)
    try:
        with Progress("checking"):
            made = verify(options.reference, key, expected, insecure=options.insecure)
    except (NotTrusted, LoginError) as error:
        if options.json:
            print(json.dumps({"trusted": False, "reason": str(error)}))
        print(f"not trusted: {error}", file=sys.stderr)
        return NOT_TRUSTED
    except (ValueError, OSError) as error:
        print(f"verify: {error}", file=sys.stderr)
        return BAD_INPUT
    if options.json:
        print(json.dumps({"trusted": True, "provenance": asdict(made)}, indent=2))
    else:
        _tell(options.reference, made)
    return 0


def _tell(reference: str, made: Provenance) -> None:
    facts = {
        "image": reference,
        "commit": f"{made.commit} {made.repository}",
        "lock": made.lock,
        "bill": made.sbom,
        **(_facts(made.model) if made.model else {}),
        "built by": f"{made.builder} {made.run}".strip(),
        "finished": made.finished,
    }
    print("trusted")
    for name, value in facts.items():
        print(f"  {name:<11}{value}")


def _facts(model: Model) -> dict[str, str]:
    return {
        "model": f"{model.version} ({model.name}, {model.quantisation})",
        "accuracy": f"{model.test_accuracy:.4f} of {model.test_images} test images",
        "dataset": model.dataset_digest,
        "config": model.config_digest,
        "trained at": f"{model.git_revision} on {model.device}, {model.precision}",
    }


def _options() -> argparse.ArgumentParser:
    parser = command_parser("//serve:verify_image", __doc__)
    parser.add_argument("reference", help="registry/path@sha256:…")
    parser.add_argument("--key", required=True, help="public key: a file, or awskms:///alias/NAME")
    parser.add_argument("--builder", metavar="URI", help="prefix of the only trusted builder's URI")
    parser.add_argument("--commit", metavar="SHA", help="required commit")
    parser.add_argument("--model-version", metavar="VERSION", help="required model version")
    parser.add_argument("--allow-dirty", action="store_true", help="accept uncommitted changes")
    parser.add_argument("--watcher", action="store_true", help="expect the watcher's image")
    parser.add_argument("--insecure", action="store_true", help="allow a registry without TLS")
    parser.add_argument("--json", action="store_true", help="one JSON document instead of lines")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
