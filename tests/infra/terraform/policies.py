"""IAM policies as data."""

from __future__ import annotations

import json
from collections.abc import Iterator
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
