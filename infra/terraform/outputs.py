"""A root's outputs, read from its state without Terraform.

So status and rollback neither wait for a Terraform that another command runs, nor need one.
"""

from __future__ import annotations

import json
import time
from typing import Any

from infra.terraform.errors import TerraformError
from infra.terraform.state import State

_FORMAT = 4  # of the state since Terraform 0.12
_TRIES = 5  # Terraform may be writing a file just now
_PAUSE_S = 0.2


def read_outputs(root: str, environment: str, state: State) -> dict[str, Any]:
    """Values by name; none before the first apply.

    Raises:
        TerraformError: the state cannot be read, or is of another format.
    """
    for left in reversed(range(_TRIES)):
        text = state.read(root, environment)
        try:
            return _values(json.loads(text)) if text else {}
        except ValueError as exc:
            if not left:
                place = state.place(root, environment)
                raise TerraformError(f"{place} is no state of Terraform: {exc}") from exc
        time.sleep(_PAUSE_S)
    raise AssertionError


def _values(document: Any) -> dict[str, Any]:
    if not isinstance(document, dict) or document.get("version") != _FORMAT:
        raise ValueError(f"expected a document with version {_FORMAT}")
    return {name: output["value"] for name, output in document.get("outputs", {}).items()}
