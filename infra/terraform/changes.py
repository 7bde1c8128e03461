"""What a plan would do, resource by resource, as Terraform's own JSON lines tell it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast, get_args

Action = Literal["create", "update", "replace", "delete", "move", "import", "remove"]
_ACTIONS = frozenset(get_args(Action))


@dataclass(frozen=True)
class Change:
    """One resource that would not stay as it is."""

    address: str  # module.alarms.aws_sns_topic.this
    type: str  # aws_sns_topic
    action: Action
    reason: str = ""  # of a replacement or deletion, where Terraform gives one


@dataclass(frozen=True)
class Plan:
    """A saved plan: exactly this is applied, or Terraform refuses it as stale."""

    file: Path
    changed: bool  # also if only an output's value changes
    changes: tuple[Change, ...]
    destroys: bool = False

    @property
    def counts(self) -> dict[str, int]:
        """Resources by action; a replacement is one."""
        actions = [change.action for change in self.changes]
        return {action: actions.count(action) for action in sorted(set(actions))}


def parse_change(event: Mapping[str, Any]) -> Change | None:
    """The change in a line of type `planned_change`; None if AWS stays as it is: data is read."""
    change: Mapping[str, Any] = event["change"]
    if change["action"] not in _ACTIONS:
        return None
    resource: Mapping[str, Any] = change["resource"]
    return Change(
        str(resource["addr"]),
        str(resource["resource_type"]),
        cast(Action, change["action"]),
        str(change.get("reason", "")).replace("_", " "),
    )
