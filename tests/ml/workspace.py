"""The training program as a user starts it, in a workspace of its own."""

import os
import subprocess
import sys
from pathlib import Path

from tests.helpers.program import Program

SMALL = (  # a training that takes seconds
    "data.validation_size=50",
    "data.batch_size=10",
    "data.sizes=[20]",
    "data.size_milestones=[]",
    "network.widths=[8,8,8]",
    "trainer.accelerator=cpu",
    "trainer.max_epochs=3",
)
_FIXED = ("budget=null",)  # a choice by the machine's speed would differ from test to test


class Workspace:
    """A user's workspace; ``dataset`` stands in for CIFAR-10, which is used if it is None."""

    def __init__(self, path: Path, dataset: Path | None = None) -> None:
        self.path = path
        self.printed = ""  # by the last program that ran to its end
        self._dataset = {"KILN_CIFAR10": str(dataset)} if dataset else {}

    @property
    def environment(self) -> dict[str, str]:
        """The environment of the programs that a user starts here."""
        return {
            **os.environ,
            "BUILD_WORKSPACE_DIRECTORY": str(self.path),
            **self._dataset,
            "PYTHONPATH": os.pathsep.join(sys.path),
            "OMP_NUM_THREADS": "1",
        }

    def start(self, *arguments: str) -> Program:
        """The training program, as `bazel run` would start it."""
        return Program(
            "ml.commands.train", *_FIXED, *arguments, cwd=self.path, env=self.environment
        )

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """The same, to its end."""
        done = self.start(*arguments).finish()
        self.printed = done.stdout
        return done

    def sibling(self, name: str) -> "Workspace":
        """A workspace beside this one, with the same dataset."""
        path = self.path.with_name(f"{self.path.name}-{name}")
        path.mkdir()
        dataset = self._dataset.get("KILN_CIFAR10")
        return Workspace(path, Path(dataset) if dataset else None)

    @property
    def runs(self) -> list[Path]:
        """All run folders, oldest first."""
        return sorted((self.path / "runs").glob("*"))
