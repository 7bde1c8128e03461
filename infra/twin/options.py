"""What the command can be told."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

BAD = ("mislabelled", "slow", "crashing")
_DESCRIPTION = """\
Kiln's whole path on this machine, without a cloud account: an image with a model, pushed to a
registry; Terraform and `//infra:deploy` against AWS's APIs on loopback; callers; a good release,
which must be promoted, and bad ones, which must be rolled back by themselves, with an alert.
Writes what it saw as JSON and as a picture.
"""
_EPILOG = """\
examples:
  bazel run //infra:twin
  bazel run //infra:twin -- --quick
  bazel run //infra:twin -- --bad slow --keep

exit codes: 0 every promise was kept, 1 one was not, 2 the machine or the input cannot be used,
130 interrupted before the end
"""


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(
        prog="bazel run //infra:twin --",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for hidden in ("image", "trained", "bundled", "bundled-int8"):
        found.add_argument(f"--{hidden}", type=Path, required=True, help=argparse.SUPPRESS)
    for hidden in ("golden", "deploy", "load", "config"):
        found.add_argument(f"--{hidden}", type=Path, required=True, help=argparse.SUPPRESS)
    found.add_argument(
        "--model",
        choices=("trained", "bundled"),
        default="trained",
        help="what is released: trained by this build in half a minute, and then with weights of "
        "16 bits (default); or the model that Kiln comes with, and then in INT8",
    )
    found.add_argument(
        "--bad",
        action="append",
        choices=BAD,
        help="only these bad releases; may be given repeatedly (default: all)",
    )
    found.add_argument("--quick", action="store_true", help="the good release and one bad one")
    found.add_argument(
        "--keep",
        action="store_true",
        help="leave everything running until Ctrl-C, callers included, and say what to type",
    )
    found.add_argument(
        "--rate", type=_above_zero, default=80.0, help="requests a second (default: 80)"
    )
    found.add_argument("--seed", type=int, default=0, help="of the callers and the alias's draws")
    found.add_argument(
        "--out", metavar="FOLDER", help="for twin.json and twin.png (default: .kiln/twin)"
    )
    return found


def _above_zero(text: str) -> float:
    if not (0 < (number := float(text)) < math.inf):
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text}")
    return number


def bad_releases(options: argparse.Namespace) -> tuple[str, ...]:
    """Which ones, in the order of the story."""
    chosen = options.bad or (BAD[:1] if options.quick else BAD)
    return tuple(name for name in BAD if name in chosen)
