"""Judges recorded evidence: promote, hold or roll back.

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
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from msgspec import structs
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from common.command_line import command_parser
from common.files import user_path
from common.terminal import terminal
from infra.release.verdict.engine import Check, Verdict, judge
from infra.release.verdict.evidence import Evidence, EvidenceError, parse_evidence
from infra.release.verdict.policy import DEFAULT_POLICY, PolicyError, parse_policy

_COLOURS = {"promote": "green", "hold": "yellow", "roll back": "red"}
_STATES = {"safe": "[green]safe[/]", "unsure": "[yellow]unsure[/]", "harmful": "[red]harmful[/]"}


def show(verdict: Verdict, evidence: Evidence, console: Console) -> None:
    """Every check with what was seen, then the decision and its reasons."""
    arms = [(window.stable, window.candidate) for window in evidence.windows]
    requests = sum(candidate.requests for _, candidate in arms)
    table = Table(
        title=f"Candidate {escape(evidence.candidate)} beside stable {escape(evidence.stable)}: "
        f"{len(arms)} windows, {requests:,} candidate requests",
        title_justify="left",
        show_lines=True,
    )
    table.add_column("check", no_wrap=True)
    table.add_column("state", no_wrap=True)
    table.add_column("what was seen", ratio=1)
    table.add_column("figures, and their limits", no_wrap=True)
    for check in verdict.checks:
        words = escape(check.words)
        if check.state == "unsure" and check.needed:
            words += f"\n[dim]needs {escape(check.needed)}[/]"
        table.add_row(check.name, _STATES[check.state], words, _figures(check))
    console.print(table)
    colour = _COLOURS[verdict.decision]
    console.print(f"[bold {colour}]{verdict.decision.upper()}[/]")
    before = "needs " if verdict.decision == "hold" else ""
    for reason in verdict.reasons:
        name, _, words = reason.partition(": ")
        console.print(f"  {name}: {before}{words}", markup=False, highlight=False, soft_wrap=True)


def _figures(check: Check) -> str:
    return "\n".join(f"{f.name} {_short(f.value)} / {_short(f.limit)}" for f in check.figures)


def _short(value: float) -> str:
    return f"{value:,.0f}" if 100 <= abs(value) < 1e6 else f"{value:.3g}"


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
        sys.stdout.write(
            "".join(f"{k} = {_toml(v)}\n" for k, v in structs.asdict(DEFAULT_POLICY).items())
        )
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
    return user_path(name).read_text("utf-8")


def _toml(value: object) -> str:
    return json.dumps(list(value)) if isinstance(value, tuple) else json.dumps(value)


def _options() -> argparse.ArgumentParser:
    parser = command_parser("//infra/release/verdict:judge", __doc__)
    parser.add_argument("evidence", nargs="?", help="JSON file, or - for standard input")
    parser.add_argument("--policy", metavar="FILE", help="TOML file (default: the built-in limits)")
    parser.add_argument("--json", action="store_true", help="print the verdict as JSON")
    parser.add_argument("--example", action="store_true", help="print a file of evidence, and end")
    parser.add_argument("--defaults", action="store_true", help="print the policy, and end")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], terminal(140)))
