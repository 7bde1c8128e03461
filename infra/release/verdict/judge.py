"""Says whether a canary is promoted, waits, or is rolled back, from what was seen of it.

Exit code: 0 promote, 10 hold, 20 roll back, 2 the input cannot be used.

  bazel run //infra/release/verdict:judge -- --example > evidence.json   # what a file looks like
  bazel run //infra/release/verdict:judge -- evidence.json
  bazel run //infra/release/verdict:judge -- evidence.json --policy policy.toml --json

`evidence.json` has one window for each time since the last look: requests, errors, latencies by
bucket, answers by class and by confidence of both versions, and the golden images that were sent
through both. `policy.toml` overrides limits and rates; --defaults prints them all.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from infra.release.verdict.engine import judge
from infra.release.verdict.evidence import EvidenceError, parse_evidence
from infra.release.verdict.policy import DEFAULT_POLICY, PolicyError, parse_policy
from infra.release.verdict.show import show
from tools.terminal import terminal

EXIT_CODES = {"promote": 0, "hold": 10, "roll back": 20}
BAD_INPUT = 2

EXAMPLE = Path(__file__).parent / "example.json"


def main(arguments: Sequence[str], console: Console) -> int:
    """Read, judge, print; returns the exit code."""
    parser = _options()
    options = parser.parse_args(arguments)
    if options.example:
        sys.stdout.write(EXAMPLE.read_text("utf-8"))
        return 0
    if options.defaults:
        sys.stdout.write("".join(f"{k} = {_toml(v)}\n" for k, v in asdict(DEFAULT_POLICY).items()))
        return 0
    if not options.evidence:
        parser.error("name a file of evidence, or - for standard input (--example shows one)")
    try:
        policy = parse_policy(_read(options.policy)) if options.policy else DEFAULT_POLICY
        evidence = parse_evidence(_read(options.evidence))
    except (EvidenceError, PolicyError, OSError, UnicodeDecodeError) as exc:
        file = options.evidence if isinstance(exc, EvidenceError) else options.policy
        place = "" if isinstance(exc, OSError) else f"{file}: "
        sys.stderr.write(f"judge: {place}{exc}\n")
        return BAD_INPUT
    verdict = judge(evidence, policy)
    if options.json:
        sys.stdout.write(json.dumps(asdict(verdict), indent=1) + "\n")
    else:
        show(verdict, evidence, console)
    return EXIT_CODES[verdict.decision]


def _read(name: str) -> str:
    if name == "-":
        return sys.stdin.read()
    path = Path(os.environ.get("BUILD_WORKING_DIRECTORY", "")) / Path(name).expanduser()
    return path.read_text("utf-8")


def _toml(value: object) -> str:
    return json.dumps(list(value)) if isinstance(value, tuple) else json.dumps(value)


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="judge", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("evidence", nargs="?", help="JSON file, or - for standard input")
    parser.add_argument("--policy", metavar="FILE", help="TOML file (default: the built-in limits)")
    parser.add_argument("--json", action="store_true", help="print the verdict as JSON")
    parser.add_argument("--example", action="store_true", help="print a file of evidence, and end")
    parser.add_argument("--defaults", action="store_true", help="print the policy, and end")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], terminal(140)))
