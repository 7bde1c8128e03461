"""All static checks in one table: `bazel run //tools:lint`.

Ruff (errors, security and format), buildifier, secrets and workflows on all files that git tracks
or would track; then types, which Bazel and mypy check incrementally.

  bazel run //tools:lint
  bazel run //tools:lint -- --fast          everything but types, in seconds
  bazel run //tools:lint -- --only ruff     by name; repeatable
  bazel run //tools:format                  formats and fixes all tracked Python and Bazel files

Exit codes: 0 clean, 1 findings, 2 no such check.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from common.command_line import command_parser
from common.files import workspace_folder
from common.programs import tracked_files, wheel_program

PROGRAMS = ("buildifier", "secrets", "workflows", "actionlint")
TYPES = "//tools/lint:types"
# Of buildifier: the default ones but one, since `sources()` makes the same names in every package.
CHECKS = "-warnings=-unnamed-macro"
_EXCUSE = re.compile(r"#\s*noqa: S\d{3}\b(?!.*#\s*\w{2})")


@dataclass(frozen=True)
class Check:
    """A linter's command; `skipped` is the reason if it cannot run."""

    name: str
    command: Sequence[str]
    skipped: str | None = None


@dataclass(frozen=True)
class Outcome:
    """The outcome of a check."""

    check: Check
    clean: bool
    output: str
    seconds: float


def checks(programs: argparse.Namespace) -> list[Check]:
    """The fast checks, on the files of the working folder."""
    python, bazel = tracked_files("*.py"), tracked_files("*.bazel", "*.bzl")
    ruff, quiet = str(wheel_program("ruff")), ("--quiet", "--no-cache")
    diff = (str(programs.buildifier), "-mode=diff", "-lint=warn", CHECKS)
    return [
        Check("ruff", (ruff, "check", *quiet, *python)),
        Check("layout", (ruff, "format", "--diff", *quiet, *python)),
        Check("buildifier", (*diff, *bazel), why_missing(programs.buildifier)),
        Check("secrets", (str(programs.secrets), *tracked_files())),
        Check("workflows", (str(programs.workflows), f"--actionlint={programs.actionlint}")),
    ]


def types(workspace: Path) -> Check:
    """mypy through Bazel, incrementally."""
    bazel = str(workspace / "tools/bazel")
    return Check("types", (bazel, "test", "--noshow_progress", "--test_output=errors", TYPES))


def run(check: Check) -> Outcome:
    """Runs the check; its exit code decides."""
    start = time.monotonic()
    environment = {k: v for k, v in os.environ.items() if k != "BUILD_WORKSPACE_DIRECTORY"}
    done = subprocess.run(
        check.command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return Outcome(check, done.returncode == 0, done.stdout, time.monotonic() - start)


def why_missing(program: Path) -> str | None:
    """The reason recorded in a program's place if it is unavailable, else None."""
    if os.access(program, os.X_OK):
        return None
    return program.read_text(encoding="utf-8").strip()


def fix(buildifier: Path) -> int:
    """Formats and fixes the files of the working folder."""
    ruff, python = str(wheel_program("ruff")), tracked_files("*.py")
    commands = [[ruff, "check", "--fix", "--no-cache", *python]]
    commands.append([ruff, "format", "--no-cache", *python])
    if reason := why_missing(buildifier):
        print(f"BUILD files left as they are: {reason}", file=sys.stderr)
    else:
        files = tracked_files("*.bazel", "*.bzl")
        commands.append([str(buildifier), "-mode=fix", "-lint=fix", CHECKS, *files])
    return max(subprocess.run(command, check=False).returncode for command in commands)


def check_python(files: Sequence[str]) -> int:
    """Fails if ruff would change or reject a file, or a suppression lacks a reason."""
    ruff = str(wheel_program("ruff"))
    settings = ["--no-cache", "--quiet", "--config=pyproject.toml"]
    lint = subprocess.run([ruff, "check", *settings, *files], check=False)
    layout = subprocess.run([ruff, "format", "--diff", *settings, *files], check=False)
    if lint.returncode or layout.returncode:
        print("\nMost of it is fixed by: bazel run //tools:format", file=sys.stderr)
    bare = [f"{file}:{number}" for file in files for number in excused_without_reason(file)]
    for place in bare:
        print(f"{place}: expected a reason, as in: noqa: S310 # why it is safe", file=sys.stderr)
    return int(bool(lint.returncode or layout.returncode or bare))


def excused_without_reason(file: str) -> list[int]:
    """Lines that suppress a security rule without a reason."""
    lines = Path(file).read_text(encoding="utf-8").splitlines()
    return [number for number, line in enumerate(lines, 1) if _EXCUSE.search(line)]


def main(arguments: Sequence[str]) -> int:
    options = _options().parse_args(arguments)
    if options.python:
        return check_python(options.python)
    if options.fix:
        buildifier = options.buildifier.absolute()
        os.chdir(workspace_folder())
        return fix(buildifier)
    for name in PROGRAMS:
        setattr(options, name, getattr(options, name).absolute())
    workspace = workspace_folder()
    os.chdir(workspace)
    chosen = [*checks(options), *([] if options.fast else [types(workspace)])]
    if unknown := set(options.only) - {check.name for check in chosen}:
        names = ", ".join(check.name for check in chosen)
        print(f"lint: no check {', '.join(sorted(unknown))}; there are {names}", file=sys.stderr)
        return 2
    failed = False
    for check in chosen:
        if options.only and check.name not in options.only:
            continue
        if check.skipped:
            print(f"--  {check.name:<11} {check.skipped}", flush=True)
            continue
        outcome = run(check)
        failed |= not outcome.clean
        mark = "ok" if outcome.clean else "!!"
        print(f"{mark}  {check.name:<11} {outcome.seconds:5.1f} s", flush=True)
        if not outcome.clean:
            print(outcome.output.rstrip(), flush=True)
    return int(failed)


def _options() -> argparse.ArgumentParser:
    parser = command_parser("//tools:lint", __doc__)
    for name in PROGRAMS:  # set by the BUILD file
        parser.add_argument(f"--{name}", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--fix", action="store_true", help=argparse.SUPPRESS)  # //tools:format
    parser.add_argument("--python", nargs="+", help=argparse.SUPPRESS)  # :ruff_test
    parser.add_argument("--fast", action="store_true", help="skip type checks")
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="that check")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
