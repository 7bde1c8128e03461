"""Starts the observability stack locally: collector, Prometheus with Kiln's rules, Alertmanager.

    bazel run //infra:observability
    OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:4318 bazel run //serve:api

With a Docker engine, it is the full stack in containers, including Tempo, Loki and Grafana with its
dashboards. Otherwise processes from packages: rotel (collector), vmagent, Prometheus, node exporter
and Alertmanager. No package registry that the build uses has Grafana, Tempo or Loki, so traces and
logs are dropped, and `bazel run //infra/observability:picture` plots the dashboards' panels. Ctrl-C
stops everything; data is kept in the folder.

Alerts are routed by environment variables:

    KILN_SLACK_WEBHOOK_FILE      file with the URL of a Slack webhook, or a compatible service
    KILN_SLACK_CHANNEL           channel, if the webhook allows a choice
    KILN_SMTP_SMARTHOST, _FROM, _TO, _USERNAME, _PASSWORD_FILE, _REQUIRE_TLS    mail

Exit codes: 0 ended by Ctrl-C or SIGTERM, 1 a part did not start or ended, 2 bad input.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from common.command_line import command_parser
from common.files import user_path
from common.terminal import Progress, terminal
from infra.observability.stack.alertmanager import RoutingError, alertmanager_config
from infra.observability.stack.local import Ports, Stack, StackError, local_stack

FAILED, BAD_INPUT = 1, 2  # exit codes
_BUDGETS = "kiln:error_budget:remaining"
_SERVE = "./tools/bazel run //serve:api"


COMPOSE = Path(__file__).parent / "compose" / "compose.yaml"
# Secrets as containers see them.
_MOUNTED = {
    "KILN_SLACK_WEBHOOK_FILE": "/run/secrets/slack_webhook",
    "KILN_SMTP_PASSWORD_FILE": "/run/secrets/smtp_password",
}


@dataclass(frozen=True)
class ContainerPorts:
    """Host ports of the containers, on loopback."""

    otlp: int = 4318
    prometheus: int = 9090
    alertmanager: int = 9093
    grafana: int = 3000


def missing_engine() -> str:
    """Why containers cannot be used; "" if they can."""
    if not (docker := shutil.which("docker")):
        return "docker is not on PATH"
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
    """The Compose project, with its alert routing written to a folder."""

    def __init__(self, folder: Path, ports: ContainerPorts, environ: Mapping[str, str]) -> None:
        """Raises RoutingError if `environ` configures a receiver incompletely."""
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
        """Raises StackError; Compose's output goes to the terminal."""
        self._compose("up", "--detach", "--wait", "--wait-timeout", "180")

    def follow(self) -> None:
        """Follows the logs until interrupted."""
        self._compose("logs", "--follow", "--tail", "20")

    def stop(self) -> None:
        """Stops the containers; their volumes are kept."""
        self._compose("down")

    def _compose(self, *arguments: str) -> None:
        command = ["docker", "compose", "--file", str(COMPOSE.resolve()), *arguments]
        code = subprocess.call(command, env={**os.environ, **self.environment})
        if code:
            raise StackError(f"docker compose {arguments[0]} ended with code {code}, see above")


def main(
    arguments: Sequence[str],
    console: Console,
    environ: Mapping[str, str] = os.environ,
    why_not_containers: Callable[[], str] = missing_engine,
) -> int:
    """Entry point of the command."""
    options = _options().parse_args(arguments)
    # SIGTERM is handled like Ctrl-C, so that nothing is left running.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with Progress("looking for a container engine", console=console):
            reason = "asked for" if options.engine == "local" else why_not_containers()
        if reason and options.engine == "docker":
            raise StackError(f"--engine docker: {reason}")
        if reason:
            _run_local(options, console, environ, reason)
        else:
            _run_containers(options, console, environ)
    except KeyboardInterrupt:
        console.print("ended; data is kept", highlight=False)
    except RoutingError as exc:
        console.print(f"[red]{exc}[/]", highlight=False, soft_wrap=True)
        return BAD_INPUT
    except (StackError, OSError) as exc:
        console.print(f"[red]{exc}[/]", highlight=False, soft_wrap=True)
        return FAILED
    return 0


def _run_local(
    options: argparse.Namespace, console: Console, environ: Mapping[str, str], reason: str
) -> None:
    console.print(f"As processes from packages, not in containers ({reason}).", highlight=False)
    ports = Ports(options.otlp_port, options.prometheus_port, options.alertmanager_port)
    with ExitStack() as ends:
        with Progress("starting the programs", console=console):
            local = local_stack(_folder(options), environ, ports, retention=options.retention)
            stack = ends.enter_context(local)
        _show(_links(stack), stack.otlp, console)
        console.print(
            "Not here: Grafana, Tempo and Loki, which are in no package registry, and the pages of "
            "Prometheus, which Debian leaves out. Traces and logs go nowhere.\n"
            "Dashboards as a picture: ./tools/bazel run //infra/observability:picture "
            f"-- --prometheus {stack.prometheus}",
            highlight=False,
            soft_wrap=True,
        )
        console.print(f"Data and logs: {stack.folder}. Ctrl-C stops everything.", soft_wrap=True)
        while True:
            for program in stack.programs:
                program.require_alive()
            time.sleep(0.5)


def _links(stack: Stack) -> list[tuple[str, str, str]]:
    return [
        ("collector", "OTLP over HTTP", stack.otlp),
        # Debian builds both without their web pages.
        ("Prometheus", "error budgets", f"{stack.prometheus}/api/v1/query?query={_BUDGETS}"),
        ("", "alerts", f"{stack.prometheus}/api/v1/alerts"),
        ("", "rules", f"{stack.prometheus}/api/v1/rules"),
        ("Alertmanager", "sent alerts", f"{stack.alertmanager}/api/v2/alerts"),
    ]


def _run_containers(
    options: argparse.Namespace, console: Console, environ: Mapping[str, str]
) -> None:
    ports = ContainerPorts(
        options.otlp_port,
        options.prometheus_port,
        options.alertmanager_port,
        options.grafana_port,
    )
    containers = Containers(_folder(options), ports, environ)
    containers.environment["KILN_RETENTION"] = options.retention
    console.print("In containers: Docker Compose, project kiln-observability.", highlight=False)
    at = "http://127.0.0.1"
    try:
        containers.start()
        links = [
            ("Grafana", "dashboards", f"{at}:{ports.grafana}/d/kiln-service"),
            ("Prometheus", "queries", f"{at}:{ports.prometheus}/query"),
            ("", "alerts", f"{at}:{ports.prometheus}/alerts"),
            ("Alertmanager", "silences", f"{at}:{ports.alertmanager}"),
        ]
        _show(links, f"{at}:{ports.otlp}", console)
        containers.follow()
    finally:
        containers.stop()


def _show(links: Sequence[tuple[str, str, str]], otlp: str, console: Console) -> None:
    table = Table("part", "what", "link")
    for row in links:
        table.add_row(*row)
    console.print(table)
    console.print(
        f"A service that exports to it: OTEL_EXPORTER_OTLP_ENDPOINT={otlp} {_SERVE}",
        highlight=False,
        soft_wrap=True,
    )


def _folder(options: argparse.Namespace) -> Path:
    if options.data:
        return user_path(options.data).absolute()
    cache = os.environ.get("KILN_CACHE") or Path.home() / ".cache" / "kiln"
    return Path(cache) / "observability"


def _options() -> argparse.ArgumentParser:
    parser = command_parser("//infra:observability", __doc__)
    parser.add_argument(
        "--engine",
        choices=["auto", "docker", "local"],
        default="auto",
        help="auto: docker where an engine answers (default)",
    )
    parser.add_argument("--data", help="folder for data and logs (default: in ~/.cache/kiln)")
    parser.add_argument("--retention", default="15d", help="retention of metrics (15d)")
    for name, port in (("otlp", 4318), ("prometheus", 9090), ("alertmanager", 9093)):
        parser.add_argument(
            f"--{name}-port",
            type=int,
            default=port,
            help=f"{port}; as processes another one if that is taken; 0: any",
        )
    parser.add_argument("--grafana-port", type=int, default=3000, help="3000; containers only")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], terminal()))
