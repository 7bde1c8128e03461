"""Runs Terraform and follows its JSON lines: https://developer.hashicorp.com/terraform/internals/machine-readable-ui"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infra.terraform.errors import StateLocked, TerraformFailed
from infra.terraform.installation import Installation

Event = Mapping[str, Any]
OnEvent = Callable[[Event], None]

CHANGED = 2  # exit code of `plan -detailed-exitcode`


@dataclass(frozen=True)
class Process:
    """Terraform in one folder."""

    installation: Installation
    folder: Path

    def stream(self, *arguments: str, on_event: OnEvent, expected: Sequence[int] = (0,)) -> int:
        """Runs a command that has `-json`, and hands over each line; returns its exit code.

        Raises:
            TerraformFailed: another exit code; the message has Terraform's errors.
        """
        errors: list[Event] = []
        other: list[str] = []
        command = [str(self.installation.program), *arguments]
        with subprocess.Popen(
            command,
            cwd=self.folder,
            env=dict(self.installation.environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process:
            assert process.stdout
            for line in process.stdout:
                event = _parse(line)
                if event is None:
                    other.append(line.rstrip())
                    continue
                if event.get("type") == "diagnostic" and event["@level"] == "error":
                    errors.append(event["diagnostic"])
                on_event(event)
        code = process.returncode
        if code not in expected:
            raise _failure(arguments[0], self.folder, errors, other)
        return code

    def text(self, *arguments: str) -> str:
        """What a command prints.

        Raises:
            TerraformFailed: it did not end well.
        """
        done = subprocess.run(
            [str(self.installation.program), *arguments],
            cwd=self.folder,
            env=dict(self.installation.environment),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise _failure(arguments[0], self.folder, [], (done.stderr or done.stdout).splitlines())
        return done.stdout


def _parse(line: str) -> Event | None:
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) and "@level" in event else None


def _failure(
    command: str, folder: Path, errors: Sequence[Event], other: Sequence[str]
) -> TerraformFailed:
    words = [_words(error) for error in errors] or [line for line in other if line.strip()]
    text = "\n".join(dict.fromkeys(words)) or "no word of why"
    if "Error acquiring the state lock" in text:
        return StateLocked(
            f"the state is locked by somebody else's run:\n{text}\n"
            "Wait for it. If that run is dead (ask first), free the lock: "
            f"cd {folder} && terraform force-unlock ID"
        )
    return TerraformFailed(f"terraform {command} in {folder.name}:\n{text}")


def _words(error: Event) -> str:
    place = ""
    if found := error.get("range"):
        place = f" ({found['filename']}, line {found['start']['line']})"
    about = f"{error['address']}: " if error.get("address") else ""
    detail = str(error.get("detail", "")).strip()
    return f"{about}{error['summary']}{place}" + (f"\n  {detail}" if detail else "")
