"""The observability stack as local processes, from Debian packages.

service --OTLP--> rotel --OTLP--> vmagent --remote write--> Prometheus --alerts--> Alertmanager

They are started in order, awaited until healthy, and stopped together. Debian builds Prometheus
without its OTLP endpoint, so vmagent translates. Metric names follow OpenTelemetry's rules for
Prometheus.
"""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.request import ProxyHandler, build_opener

from common.programs import ProgramMissing, find_program, free_port
from infra.observability.stack.alertmanager import alertmanager_config

_PATIENCE_S = 60.0  # generous, for busy machines
_ENDING_S = 10.0
_direct = build_opener(ProxyHandler({}))  # no proxy for loopback


class StackError(Exception):
    """The stack cannot run; the message says what to do."""


@dataclass(frozen=True)
class Program:
    """A command line, and the address that responds when it is ready: a URL, or host:port."""

    name: str
    command: Sequence[str]
    health: str
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Running:
    """A started program: process and log."""

    program: Program
    process: subprocess.Popen[bytes]
    log: Path

    def require_alive(self) -> None:
        """Raises StackError with the end of its log if it has exited."""
        if (code := self.process.poll()) is not None:
            last = self.log.read_text(errors="replace").splitlines()[-8:]
            raise StackError(
                f"{self.program.name} ended with code {code}; the end of {self.log}:\n  "
                + "\n  ".join(last)
            )


@contextmanager
def running(programs: Sequence[Program], folder: Path) -> Iterator[list[Running]]:
    """Runs all programs until they are ready, and while the context is open; logs go to the folder.

    Raises:
        StackError: one did not start.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as ends:
        started: list[Running] = []
        for program in programs:
            one = ends.enter_context(_process(program, folder))
            started.append(one)
            _await(one)
        yield started


@contextmanager
def _process(program: Program, folder: Path) -> Iterator[Running]:
    log = folder / f"{program.name}.log"
    # Without variables for proxies and OpenTelemetry, which are not meant for these programs.
    environment = {"PATH": os.defpath, "HOME": str(folder), **program.environment}
    with log.open("wb") as file:
        process = subprocess.Popen(
            program.command,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            env=environment,
            cwd=folder,
            start_new_session=True,  # Ctrl-C is handled here, so that they stop in order
        )
        try:
            yield Running(program, process, log)
        finally:
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Terminates a process and its children."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(_ENDING_S)


def _await(one: Running) -> None:
    end = time.monotonic() + _PATIENCE_S
    while not answers(one.program.health):
        one.require_alive()
        if time.monotonic() > end:
            raise StackError(
                f"{one.program.name} does not answer at {one.program.health} after "
                f"{_PATIENCE_S:g} s; its log: {one.log}"
            )
        time.sleep(0.05)


def answers(address: str) -> bool:
    """Whether a URL gives 2xx, or host:port accepts connections."""
    if "://" in address:
        try:
            with _direct.open(address, timeout=2.0):
                return True
        except (OSError, HTTPException):
            return False
    host, _, port = address.rpartition(":")
    with socket.socket() as probe:
        probe.settimeout(2.0)
        return probe.connect_ex((host, int(port))) == 0


def port_or_free(wanted: int) -> int:
    """The requested port if it is free, else any."""
    with suppress(OSError), socket.create_server(("127.0.0.1", wanted)) as probe:
        return int(probe.getsockname()[1])
    return free_port()


def prometheus_config(
    alertmanager: str, scraped: Mapping[str, str], rules: str, interval_s: int = 15
) -> dict[str, Any]:
    """`prometheus.yml`: the service pushes metrics, the stack's parts are scraped.

    Args:
        scraped: job to host:port.
        rules: path of the rule file as seen by Prometheus.
    """
    jobs = {**scraped, "alertmanager": alertmanager}
    return {
        "global": {
            "scrape_interval": f"{interval_s}s",
            "evaluation_interval": f"{interval_s}s",
        },
        "rule_files": [rules],
        "alerting": {"alertmanagers": [{"static_configs": [{"targets": [alertmanager]}]}]},
        # Exports of two processes may arrive out of order.
        "storage": {"tsdb": {"out_of_order_time_window": "10m"}},
        "scrape_configs": [
            {"job_name": job, "static_configs": [{"targets": [target]}]}
            for job, target in sorted(jobs.items())
        ],
    }


RULES = Path(__file__).parents[1] / "prometheus" / "kiln.rules.yml"
_TEMPLATES = Path("/usr/share/prometheus/alertmanager")
_BATCH = "200ms"  # how long the collector gathers a batch
_SMALL = "tmpfs|overlay|squashfs|ramfs|proc|sysfs|devtmpfs|cgroup.*|nsfs|fuse.*"


@dataclass(frozen=True)
class Ports:
    """Ports on loopback; those that users never type are chosen automatically."""

    otlp: int = 4318
    prometheus: int = 9090
    alertmanager: int = 9093


@dataclass(frozen=True)
class Stack:
    """Addresses of the running stack."""

    otlp: str
    prometheus: str
    alertmanager: str
    folder: Path
    programs: list[Running]

    @property
    def environment(self) -> dict[str, str]:
        """Variables with which a service exports to this stack."""
        return {"OTEL_EXPORTER_OTLP_ENDPOINT": self.otlp}


@contextmanager
def local_stack(
    folder: Path,
    environ: Mapping[str, str],
    ports: Ports = Ports(),
    interval_s: int = 15,
    retention: str = "15d",
) -> Iterator[Stack]:
    """Runs the stack while the context is open; data and logs stay in the folder.

    Args:
        environ: routing of alerts, see `alertmanager`.
        interval_s: evaluation interval of the rules.

    Raises:
        StackError: a program is missing or did not start.
        RoutingError: `environ` configures a receiver incompletely.
    """
    folder.mkdir(parents=True, exist_ok=True)
    at = {
        "otlp": port_or_free(ports.otlp),
        "prometheus": port_or_free(ports.prometheus),
        "alertmanager": port_or_free(ports.alertmanager),
        **{name: free_port() for name in ("grpc", "vmagent", "node")},
    }
    where = {name: f"127.0.0.1:{port}" for name, port in at.items()}
    try:
        programs = _programs(folder, where, environ, interval_s, retention)
    except ProgramMissing as exc:
        raise StackError(str(exc)) from exc
    with running(programs, folder / "logs") as found:
        urls = {name: f"http://{where[name]}" for name in ("otlp", "prometheus", "alertmanager")}
        yield Stack(**urls, folder=folder, programs=found)


def _programs(
    folder: Path,
    where: Mapping[str, str],
    environ: Mapping[str, str],
    interval_s: int,
    retention: str,
) -> list[Program]:
    scraped = {
        "machine": where["node"],
        "prometheus": where["prometheus"],
        "vmagent": where["vmagent"],
    }
    config = prometheus_config(where["alertmanager"], scraped, str(RULES.resolve()), interval_s)
    # JSON is valid YAML.
    routing = _write(folder / "alertmanager.yml", json.dumps(alertmanager_config(environ)))
    rules = _write(folder / "prometheus.yml", json.dumps(config, indent=2))
    return [
        alertmanager_program(where["alertmanager"], routing, folder),
        _prometheus(where["prometheus"], rules, folder, retention),
        _node(where["node"]),
        _vmagent(where["vmagent"], where["prometheus"], folder),
        _collector(where["otlp"], where["grpc"], where["vmagent"]),
    ]


def alertmanager_program(address: str, config: Path, folder: Path) -> Program:
    """The Alertmanager program without the rest of the stack."""
    command = [
        *with_templates(find_program("prometheus-alertmanager")),
        f"--config.file={config}",
        f"--storage.path={folder / 'alertmanager'}",
        f"--web.listen-address={address}",
        "--cluster.listen-address=",  # standalone
    ]
    return Program("alertmanager", command, f"http://{address}/-/ready")


def with_templates(program: Path) -> list[str]:
    """Command prefix for Alertmanager or amtool, from Debian or elsewhere.

    Debian's build reads templates only below /usr/share, so it runs in a mount namespace that has
    them there.
    """
    unpacked = program.resolve().parents[2] / _TEMPLATES.relative_to("/")
    if _TEMPLATES.is_dir() or not unpacked.is_dir():  # other builds embed them
        return [str(program)]
    view = ["--dev-bind", "/", "/", "--tmpfs", "/usr/share"]
    view += ["--ro-bind", str(unpacked), str(_TEMPLATES)]
    return [str(find_program("bwrap")), *view, "--", str(program.resolve())]


def _prometheus(address: str, config: Path, folder: Path, retention: str) -> Program:
    command = [
        str(find_program("prometheus")),
        f"--config.file={config}",
        f"--storage.tsdb.path={folder / 'prometheus'}",
        f"--storage.tsdb.retention.time={retention}",
        f"--web.listen-address={address}",
        "--web.enable-remote-write-receiver",
    ]
    return Program("prometheus", command, f"http://{address}/-/ready")


def _node(address: str) -> Program:
    command = [
        str(find_program("prometheus-node-exporter")),
        f"--web.listen-address={address}",
        "--collector.disable-defaults",
        *(f"--collector.{name}" for name in ("cpu", "meminfo", "filesystem", "loadavg")),
        f"--collector.filesystem.fs-types-exclude=^({_SMALL})$",
    ]
    return Program("machine", command, f"http://{address}/")


def _vmagent(address: str, prometheus: str, folder: Path) -> Program:
    command = [
        str(find_program("vmagent")),
        f"-httpListenAddr={address}",
        f"-remoteWrite.url=http://{prometheus}/api/v1/write",
        f"-remoteWrite.tmpDataPath={folder / 'vmagent'}",
        "-remoteWrite.forcePromProto",
        "-opentelemetry.usePrometheusNaming",
    ]
    return Program("vmagent", command, f"http://{address}/health")


def _collector(http: str, grpc: str, vmagent: str) -> Program:
    command = [
        str(rotel()),
        "start",
        f"--otlp-http-endpoint={http}",
        f"--otlp-grpc-endpoint={grpc}",
        f"--batch-timeout={_BATCH}",
        "--exporters=metrics:otlp,nowhere:blackhole",
        "--exporters-metrics=metrics",
        "--exporters-traces=nowhere",  # no package has Tempo or Loki
        "--exporters-logs=nowhere",
    ]
    environment = {
        "ROTEL_EXPORTER_METRICS_ENDPOINT": f"http://{vmagent}/opentelemetry",
        "ROTEL_EXPORTER_METRICS_PROTOCOL": "http",
    }
    return Program("collector", command, http, environment)


def rotel() -> Path:
    """The collector's program, carried by the wheel `rotel`."""
    spec = importlib.util.find_spec("rotel")
    if spec is None or spec.origin is None:
        raise StackError("the package rotel is missing: start this by Bazel, or pip install rotel")
    return Path(spec.origin).with_name("rotel-agent")


def _write(path: Path, content: str) -> Path:
    path.write_text(content, encoding="utf-8")
    return path
