"""The `run:` steps of the workflows, and a scratch clone in which they run as on GitHub."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

# Bazel and what else a step calls: notes its arguments, and leaves the files that later steps read.
RECORDER = """#!/usr/bin/env python3
import json, os, pathlib, sys
name, arguments = pathlib.Path(sys.argv[0]).name, sys.argv[1:]
with open(os.environ["RECORD"], "a") as record:
    record.write(json.dumps([name, *arguments]) + "\\n")
for option, text in (("--reference-file", "registry.invalid/kiln@sha256:" + "0" * 64 + "\\n"),):
    if option in arguments:
        pathlib.Path(arguments[arguments.index(option) + 1]).write_text(text)
if name == "gh" and "-q" in arguments:  # a question: GitHub has it, or nothing is found
    print("1" if os.environ.get("THERE") else "", end="")
    sys.exit(0 if os.environ.get("THERE") else 1)
if arguments == ["info", "release"]:
    print("release", os.environ["USE_BAZEL_VERSION"].replace("x", "6.0"))
if "--card" in arguments:
    pathlib.Path(arguments[arguments.index("--card") + 1]).write_text("# Retraining\\n")
    sys.exit(int(os.environ.get("DRIFT_STATUS", "0")))
if "//ml:drift" in arguments:
    print("drift: class")
    sys.exit(int(os.environ.get("DRIFT_STATUS", "0")))
"""
# What GitHub fills in, by expression.
VALUES = {
    "github.event.pull_request.base.sha || 'HEAD'": "1" * 40,
    "github.event.pull_request.base.sha": "1" * 40,
    "github.event.pull_request.number": "7",
    "github.repository": "me/kiln",
    "github.run_id": "9",
    "github.sha": "1" * 40,
    "github.server_url": "https://github.invalid",
    "github.token": "made-up",
    "inputs.environment == 'production' && 'prod' || 'staging'": "prod",
    "inputs.reason": 'it\'s "slow"; $(touch injected)',
    "inputs.version": "12",
    "matrix.bazel": "8.x",
    "matrix.machine": "ubuntu-latest",
    "needs.image.outputs.reference": "registry.invalid/kiln@sha256:" + "0" * 64,
    "needs.image.outputs.watcher": "registry.invalid/kiln@sha256:" + "0" * 64,
    "secrets.SLACK_WEBHOOK_URL": "https://slack.invalid/hook",
    "steps.analysis.outcome": "success",
    "steps.tests.outcome": "failure",
    "steps.push.outputs.reference": "registry.invalid/kiln@sha256:" + "0" * 64,
    "steps.push.outputs.watcher": "registry.invalid/kiln@sha256:" + "0" * 64,
    "toJSON(needs)": '{"image": {"result": "success"}}',
    "vars.AWS_ROLE": "arn:aws:iam::123456789012:role/kiln-github-production",
    "vars.CAPTURES": "s3://bucket/captures",
    "vars.ECR_REPOSITORY": "registry.invalid/kiln",
    "vars.KILN_TERRAFORM_STATE": "s3://states/terraform",
    "vars.PREDICTIONS": "s3://bucket/predictions.jsonl",
    "vars.REGISTRY": "s3://bucket/registry",
    "vars.REMOTE_CACHE": "",
    "vars.SIGNING_KEY": "awskms:///alias/kiln",
}
_EXPRESSION = re.compile(r"\$\{\{\s*(.*?)\s*\}\}")


@dataclass(frozen=True)
class Step:
    """One `run:`, with the variables that it sees beside GitHub's own."""

    workflow: str
    job: str
    name: str
    script: str
    environment: Mapping[str, str]

    def __str__(self) -> str:
        return f"{self.workflow}/{self.job}/{self.name}"


def read_steps(workflows: Path) -> Iterator[Step]:
    """Of all workflows, in order."""
    for file in sorted(workflows.glob("*.yml")):
        content: dict[str, Any] = yaml.safe_load(file.read_text(encoding="utf-8"))
        for job, described in content["jobs"].items():
            for number, step in enumerate(described.get("steps", ())):
                if "run" in step:
                    variables = {
                        name: evaluate(str(value))
                        for part in (content, described, step)
                        for name, value in part.get("env", {}).items()
                    }
                    name = step.get("name", f"step {number}")
                    yield Step(file.stem, job, name, step["run"], variables)


def evaluate(text: str) -> str:
    """The text with its expressions filled in; KeyError names one that is not known here."""
    return _EXPRESSION.sub(lambda found: VALUES[found[1]], text)


@dataclass
class Scratch:
    """A folder that looks like a clone, with recorders in place of programs."""

    folder: Path
    status: int = 0  # of the drift program, and of the retraining
    calls: list[list[str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        (self.folder / "temp").mkdir(parents=True)
        for name in ("tools/bazel", "bin/gh", "bin/aws", "bin/apt-get", "bin/git", "bin/sudo"):
            path = self.folder / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(RECORDER)
            path.chmod(0o755)

    def take(self, folder: Path) -> None:
        """Copies scripts of the repository, to run as they are."""
        shutil.copytree(folder, self.folder / folder.name)

    def run(self, step: Step) -> subprocess.CompletedProcess[str]:
        """As a runner does: bash that stops at the first error."""
        record = self.folder / "record"
        environment = {
            "PATH": f"{self.folder}/bin:/usr/local/bin:/usr/bin:/bin",
            "HOME": str(self.folder),
            "RECORD": str(record),
            "RUNNER_TEMP": str(self.folder / "temp"),
            "GITHUB_ACTOR": "me",
            "GITHUB_OUTPUT": str(self.folder / "temp/output"),
            "GITHUB_REF_NAME": "v1.2.3",
            "GITHUB_REPOSITORY": "me/kiln",
            "GITHUB_RUN_ID": "9",
            "GITHUB_SERVER_URL": "https://github.invalid",
            "GITHUB_SHA": "2" * 40,
            "GITHUB_STEP_SUMMARY": str(self.folder / "temp/summary"),
            "DRIFT_STATUS": str(self.status),
            **step.environment,
        }
        done = subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step.script],
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
        )
        if record.exists():
            self.calls = [json.loads(line) for line in record.read_text().splitlines()]
        return done
