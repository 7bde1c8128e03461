"""Publishes images and runs `//infra:deploy` against the twin's endpoints."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.oci import manifest_digest
from common.programs import find_program
from infra.twin.image.container import Registry


class NotPushed(Exception):
    """The registry rejected the image; the message is crane's."""


def publish(layout: Path, registry: Registry, ecr: Any, repository: str) -> str:
    """Pushes an image; returns its ECR URI by digest.

    Raises:
        NotPushed: the registry rejected it.
        ProgramMissing: crane is not installed.
    """
    digest = manifest_digest(layout)
    reference = f"{registry.address}/{repository}@{digest}"
    command = [str(find_program("crane")), "--insecure", "push", str(layout), reference]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise NotPushed(f"{reference}: {done.stderr.strip()}")
    _, manifest = registry.manifest(repository, digest)
    ecr.put_image(repositoryName=repository, imageManifest=manifest.decode(), imageDigest=digest)
    (found,) = ecr.describe_repositories(repositoryNames=[repository])["repositories"]
    return f"{found['repositoryUri']}@{digest}"


def run_command(
    command: Sequence[str],
    environment: Mapping[str, str],
    folder: Path,
    say: Callable[[str], object],
) -> tuple[int, str]:
    """Exit code and standard output; `say` gets each line of standard error as it comes."""
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=dict(environment),
        cwd=folder,
        text=True,
    ) as process:
        assert process.stdout
        assert process.stderr
        errors = process.stderr

        def show() -> None:
            with suppress(ValueError):  # closed: the story was interrupted
                for line in errors:
                    say(line.rstrip("\n"))

        shower = threading.Thread(target=show)
        shower.start()
        output = process.stdout.read()
        shower.join()
    return process.returncode, output


PROMOTED, ROLLED_BACK = 0, 20


@dataclass(frozen=True)
class Deployer:
    """The deploy command with the settings that all releases share.

    Attributes:
        program: //infra:deploy.
        environment: environment variables, above all the endpoints.
        folder: working directory and Terraform state.
        say: called with each line of its output.
    """

    program: Path
    config: Path
    golden: Path
    environment: Mapping[str, str]
    folder: Path
    env: str
    say: Callable[[str], object]
    variables: Sequence[str] = ()

    @property
    def state(self) -> Path:
        """The folder of Terraform's state."""
        return self.folder / "state"

    @property
    def pace(self) -> list[str]:
        return ["--config", str(self.config.resolve())]

    @property
    def golden_set(self) -> list[str]:
        return ["--golden", str(self.golden.absolute())]

    @property
    def terraform(self) -> list[str]:
        return [word for variable in self.variables for word in ("--var", variable)]

    def deploy(self, image: str, reason: str, *more: str) -> Deployment:
        """Runs a deployment and waits for its end."""
        command = [
            str(self.program.absolute()),
            *("--env", self.env, "--yes", "--json", "--image", image, "--reason", reason),
            *("--state", str(self.state), *self.pace, *self.golden_set, *self.terraform),
            *more,
        ]
        begun = time.time()
        exit_code, output = run_command(command, self.environment, self.folder, self.say)
        return Deployment(begun, time.time(), exit_code, _parsed(output))


@dataclass(frozen=True)
class Deployment:
    """One run of the deploy command; `result` is its JSON document."""

    began_s: float
    ended_s: float
    exit_code: int
    result: Mapping[str, Any]


def _parsed(output: str) -> Mapping[str, Any]:
    try:
        found: dict[str, Any] = json.loads(output)
    except ValueError:
        return {"error": f"no JSON: {output!r:.300}"}
    return found
