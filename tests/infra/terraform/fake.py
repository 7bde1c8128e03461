"""A Terraform of a few lines, where one only has to answer."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from infra.terraform.program import Installation


def fake_terraform(folder: Path, lines: Sequence[Any], code: int) -> Installation:
    """A program that says these lines, keeps what it was called with, and ends."""
    said = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    program = folder / "terraform"
    program.write_text(
        f"#!{sys.executable}\nimport sys, pathlib\n"
        f"pathlib.Path({str(folder / 'arguments')!r}).write_text(' '.join(sys.argv[1:]))\n"
        f"print({said!r})\nsys.exit({code})\n"
    )
    program.chmod(0o755)
    return Installation(program, None, {})


def planned(address: str, action: str, **more: str) -> dict[str, Any]:
    """A line of `terraform plan -json`."""
    resource = {"addr": address, "resource_type": address.split(".")[0]}
    change = {"resource": resource, "action": action, **more}
    return {"@level": "info", "type": "planned_change", "change": change}
