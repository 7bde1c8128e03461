"""The commands that the story types: training, registry, live quality, retraining."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infra.twin.deployment import run_command
from infra.twin.story import Failed, Narrator

NAMES = ("train", "stream", "registry", "live", "retrain", "golden-images", "api")


@dataclass(frozen=True)
class Done:
    """The outcome of a command."""

    exit_code: int
    output: str


@dataclass(frozen=True)
class Programs:
    """The programs, and the workspace in which they work.

    Attributes:
        paths: by name, all of `NAMES`.
        workspace: holds runs, registry and captures.
    """

    paths: Mapping[str, Path]
    workspace: Path
    narrator: Narrator

    @property
    def captures(self) -> Path:
        """Where the service captures."""
        return self.workspace / "captures"

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables of every program, which keep all files in the workspace."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("KILN_", "RUNFILES"))}
        cache = {k: v for k, v in os.environ.items() if k == "KILN_CACHE"}
        return {
            **kept,
            **cache,
            "BUILD_WORKSPACE_DIRECTORY": str(self.workspace),
            "BUILD_WORKING_DIRECTORY": str(self.workspace),
            "KILN_CAPTURE": str(self.captures),
            "KILN_REGISTRY": str(self.workspace / "registry"),
            "KILN_SIGNING_KEY": str(self.workspace / "keys" / "model.key"),
            "KILN_MODEL_KEY": str(self.workspace / "keys" / "model.pub"),
            "KILN_ACTOR": "the twin",
        }

    def run(
        self,
        name: str,
        *arguments: str | Path,
        fine: Sequence[int] = (0,),
    ) -> Done:
        """Runs a command to its end and shows its output.

        Raises:
            Failed: its exit code is not among those that are fine.
        """
        words = [str(word) for word in arguments]
        self.narrator.say(f"$ {name} {shlex.join(words)}")
        command, said = [str(self.paths[name].absolute()), *words], list[str]()
        exit_code, output = run_command(command, self.environment, self.workspace, said.append)
        if exit_code not in fine:
            told = "\n".join([*output.splitlines()[-5:], *said[-8:]])
            raise Failed(f"{name} ended with exit code {exit_code}:\n{told}")
        return Done(exit_code, output)

    def asked(self, name: str, *arguments: str | Path, fine: Sequence[int] = (0,)) -> Any:
        """The JSON that a command prints."""
        return json.loads(self.run(name, *arguments, fine=fine).output)

    def newest_run(self) -> Path:
        """The folder of the newest training."""
        return max((self.workspace / "runs").iterdir(), key=lambda path: path.stat().st_mtime)
