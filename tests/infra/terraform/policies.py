"""IAM policies as data."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

# Their `policy` is AWS's own, from before ours was attached by a resource of its own.
_ATTACHED = ("aws_sns_topic", "aws_sqs_queue")


def statements(document: str) -> list[dict[str, Any]]:
    """The statements of a policy, actions and resources always as lists."""
    found = json.loads(document)["Statement"]
    return [
        {**one, "Action": _list(one["Action"]), "Resource": _list(one.get("Resource", []))}
        for one in (found if isinstance(found, list) else [found])
    ]


def allowed(document: str) -> set[str]:
    """Every action that a policy allows."""
    return {
        action
        for statement in statements(document)
        if statement["Effect"] == "Allow"
        for action in statement["Action"]
    }


def is_allowed(policies: Iterable[str], action: str, resource: str) -> bool:
    """Whether one of a role's policies allows an action, on a resource where its ARN is known.

    Conditions are taken to hold: they need what a call on loopback does not carry.
    """
    return any(
        action in one["Action"]
        and (not resource or any(_meets(p, resource) for p in one["Resource"]))
        for document in policies
        for one in statements(document)
        if one["Effect"] == "Allow"
    )


def _meets(pattern: str, resource: str) -> bool:
    """Whether an ARN is one that a policy names: `*` is any text, also with colons and slashes."""
    expression = re.escape(pattern).replace(r"\*", ".*").replace(r"\?", ".")
    names = (resource, f"{resource}:*")  # a log group as policies write it
    return any(re.fullmatch(expression, name) for name in names)


def documents(state: Any) -> Iterator[tuple[str, str]]:
    """Address and JSON of every policy in what `terraform show -json` says of a state."""
    for resource in _resources(state["values"]["root_module"]):
        if resource["type"] in _ATTACHED:
            continue
        for name in ("policy", "assume_role_policy", "json"):
            value = resource["values"].get(name)
            if isinstance(value, str) and '"Statement"' in value:
                yield f"{resource['address']}.{name}", value


def _resources(module: Any) -> Iterator[Any]:
    yield from module.get("resources", ())
    for child in module.get("child_modules", ()):
        yield from _resources(child)


def _list(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else list(value)
