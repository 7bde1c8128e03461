"""How a command ended, for people and for scripts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from infra.release.errors import DONE, HELD, REFUSED, ROLLED_BACK
from infra.release.ledger import Kind


@dataclass(frozen=True)
class Outcome:
    """What became of a release."""

    kind: Kind
    text: str
    data: Mapping[str, Any] = field(default_factory=dict)

    @property
    def exit_code(self) -> int:
        """See README.md."""
        return {
            "rolled back": ROLLED_BACK,
            "stop": HELD,
            "failed": REFUSED,
        }.get(self.kind, DONE)
