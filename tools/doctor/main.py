"""Reports what this machine lacks for Kiln, and what for: `bazel run //tools:doctor`.

Works without Bazel, too: python3 -m tools.doctor.main, in the workspace. It changes nothing, and
sends a single request, to Bazel's module registry.

Exit codes: 0 builds and tests can run, 1 something essential is missing.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from common.command_line import command_parser
from tools.doctor.examinations import Finding, Status, examine, this_machine

_MARKS = {Status.FINE: "ok", Status.OPTIONAL: "--", Status.MISSING: "!!"}
_COLOURS = {Status.FINE: "32", Status.OPTIONAL: "33", Status.MISSING: "31"}


def main(arguments: Sequence[str]) -> int:
    options = _options().parse_args(arguments)
    workspace = os.environ.get("BUILD_WORKSPACE_DIRECTORY") or Path(__file__).absolute().parents[2]
    findings = examine(this_machine(Path(workspace)))
    if options.json:
        print(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        print("\n".join(lines(findings, sys.stdout.isatty())))
    return int(any(finding.status is Status.MISSING for finding in findings))


def lines(findings: Sequence[Finding], colour: bool) -> list[str]:
    """A line per finding, followed by its remedy if there is one."""
    width = max(len(finding.name) for finding in findings)
    told = []
    for finding in findings:
        mark = _MARKS[finding.status]
        mark = f"\033[{_COLOURS[finding.status]}m{mark}\033[0m" if colour else mark
        told.append(f"{mark} {finding.name:<{width}}  {finding.detail}")
        if finding.remedy:
            told.append(f"   {'':<{width}}  needed for {finding.needed_for}")
            told.append(f"   {'':<{width}}  {finding.remedy}")
    missing = [finding.name for finding in findings if finding.status is Status.MISSING]
    verdict = f"missing: {', '.join(missing)}" if missing else "builds and tests can run here"
    return [*told, "", verdict]


def _options() -> argparse.ArgumentParser:
    parser = command_parser("//tools:doctor", __doc__)
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
