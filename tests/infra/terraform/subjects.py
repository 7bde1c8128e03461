"""The subjects that the tokens of our workflows' jobs have, by what GitHub documents of them.

https://docs.github.com/en/actions/reference/security/oidc
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

_SIGN_IN = "aws-actions/configure-aws-credentials@"
_INPUT = re.compile(r"\$\{\{ inputs\.(\w+) \}\}")
_DEFAULT_BRANCH = "ref:refs/heads/main"
# What a run by each trigger presents, if its job is in no environment.
_BY_TRIGGER: Mapping[str, tuple[str, ...]] = {
    "merge_group": ("ref:refs/heads/gh-readonly-queue/main/pr-7-abc",),
    "pull_request": ("pull_request",),
    "pull_request_target": ("pull_request",),
    "schedule": (_DEFAULT_BRANCH,),
    "workflow_dispatch": (_DEFAULT_BRANCH, "ref:refs/heads/anything", "ref:refs/tags/v1.2.3"),
}


@dataclass(frozen=True)
class Job:
    """One job of a workflow.

    Attributes:
        environments: of GitHub, in which it may run; none or more.
        subjects: what its tokens may have as subject, behind `repo:owner/name:`.
        gets_tokens: it may ask for one at all.
        signs_in: it exchanges one for a role of AWS.
        serves: environments of AWS that its steps name, by `--env` or by a choice between two.
    """

    name: str
    triggers: frozenset[str]
    environments: frozenset[str]
    subjects: frozenset[str]
    gets_tokens: bool
    signs_in: bool
    serves: frozenset[str]


def read_jobs(workflows: Path) -> Iterator[Job]:
    """Of all workflows."""
    for file in sorted(workflows.glob("*.y*ml")):
        workflow = yaml.safe_load(file.read_text(encoding="utf-8"))
        triggers = _triggers(workflow[True])  # YAML 1.1 reads the key `on` as a truth value
        for name, job in workflow["jobs"].items():
            environments = frozenset(_environments(job.get("environment"), triggers))
            permissions = job.get("permissions", workflow.get("permissions", {}))
            steps = job.get("steps", ())
            yield Job(
                f"{file.stem}/{name}",
                frozenset(triggers),
                environments,
                frozenset(_subjects(environments, triggers)),
                permissions == "write-all" or dict(permissions).get("id-token") == "write",
                any(step.get("uses", "").startswith(_SIGN_IN) for step in steps),
                frozenset(found for step in steps for found in _served(step)),
            )


def _triggers(on: str | list[str] | dict[str, Any]) -> dict[str, Any]:
    names = {on: None} if isinstance(on, str) else on
    return (
        {name: names[name] or {} for name in names}
        if isinstance(names, dict)
        else {name: {} for name in names}
    )


def _environments(declared: Any, triggers: Mapping[str, Any]) -> Iterator[str]:
    name = declared["name"] if isinstance(declared, dict) else declared
    if name is None:
        return
    if chosen := _INPUT.fullmatch(name):
        yield from triggers["workflow_dispatch"]["inputs"][chosen[1]]["options"]
    elif "${{" in name:
        raise ValueError(f"expected an environment's name or a choice among some, got {name}")
    else:
        yield name


def _served(step: Mapping[str, Any]) -> list[str]:
    chosen = str(step.get("env", {}).get("KILN_ENVIRONMENT", ""))
    return re.findall(r"--env (\w+)", step.get("run", "")) + re.findall(
        r"(?:&&|\|\|) '(\w+)'", chosen
    )


def _subjects(environments: frozenset[str], triggers: Mapping[str, Any]) -> Iterator[str]:
    if environments:
        yield from (f"environment:{name}" for name in environments)
        return
    for trigger, filters in triggers.items():
        yield from _pushed(filters) if trigger == "push" else _BY_TRIGGER[trigger]


def _pushed(filters: Mapping[str, Any]) -> Iterator[str]:
    """An example for each pattern; without one every branch and tag."""
    if not filters.keys() & {"branches", "tags"}:
        filters = {"branches": ["main", "anything"], "tags": ["v1"]}
    for kind, folder in (("branches", "heads"), ("tags", "tags")):
        for pattern in filters.get(kind, ()):
            yield f"ref:refs/{folder}/{pattern.replace('*', '1.2.3')}"
