"""The observability stack in containers, by Docker Compose."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from infra.observability.stack.alertmanager import alertmanager_config
from infra.observability.stack.programs import StackError

COMPOSE = Path(__file__).parents[1] / "compose" / "compose.yaml"
# Secrets as containers see them.
_MOUNTED = {
    "KILN_SLACK_WEBHOOK_FILE": "/run/secrets/slack_webhook",
    "KILN_SMTP_PASSWORD_FILE": "/run/secrets/smtp_password",
}


@dataclass(frozen=True)
class ContainerPorts:
    """On the loopback device of this machine."""

    otlp: int = 4318
    prometheus: int = 9090
    alertmanager: int = 9093
    grafana: int = 3000


def missing_engine() -> str:
    """Why there are no containers here; "" where there can be."""
    if not (docker := shutil.which("docker")):
        return "there is no docker on PATH"
    for command, reason in (
        (["info"], "no Docker engine answers"),
        (["compose", "version"], "docker has no compose plugin (Debian: docker-compose)"),
    ):
        try:
            done = subprocess.run([docker, *command], capture_output=True, timeout=20, check=False)
        except (OSError, subprocess.TimeoutExpired):
            return reason
        if done.returncode:
            return reason
    return ""


class Containers:
    """The Compose project, with its routing written into a folder."""

    def __init__(self, folder: Path, ports: ContainerPorts, environ: Mapping[str, str]) -> None:
        """Raises RoutingError where `environ` has half a receiver."""
        folder.mkdir(parents=True, exist_ok=True)
        inside = {name: path for name, path in _MOUNTED.items() if environ.get(name)}
        config = alertmanager_config({**environ, **inside})
        (folder / "alertmanager.yml").write_text(json.dumps(config), encoding="utf-8")
        self.environment = {
            **environ,
            "KILN_OBSERVABILITY_DATA": str(folder.absolute()),
            "KILN_OTLP_PORT": str(ports.otlp),
            "KILN_PROMETHEUS_PORT": str(ports.prometheus),
            "KILN_ALERTMANAGER_PORT": str(ports.alertmanager),
            "KILN_GRAFANA_PORT": str(ports.grafana),
        }

    def start(self) -> None:
        """Raises StackError; what Compose says goes to the terminal."""
        self._compose("up", "--detach", "--wait", "--wait-timeout", "180")

    def follow(self) -> None:
        """Shows the logs until the user has seen enough."""
        self._compose("logs", "--follow", "--tail", "20")

    def stop(self) -> None:
        """Stops the containers and keeps their volumes."""
        self._compose("down")

    def _compose(self, *arguments: str) -> None:
        command = ["docker", "compose", "--file", str(COMPOSE.resolve()), *arguments]
        code = subprocess.call(command, env={**os.environ, **self.environment})
        if code:
            raise StackError(f"docker compose {arguments[0]} ended with code {code}, see above")
