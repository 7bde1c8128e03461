"""compose.yaml: judged by Docker's own compose program, its commands run without an engine."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import pytest
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader

from common.programs import free_port, require_program
from infra.twin.image.container import Root, running
from tests.helpers.waiting import wait_until
from tests.serve.image import built
from tests.serve.image.http_service import serving

root = built.root

FILE = Path("compose.yaml")
# What may be done to a container that its image must bear.
RESTRICTIONS = {
    "read_only": True,
    "cap_drop": ["ALL"],
    "security_opt": ["no-new-privileges:true"],
    "tmpfs": ["/tmp"],
}


def compose(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [str(require_program("docker-compose")), "--file", str(FILE), *arguments]
    environment = {"PATH": os.environ["PATH"], "HOME": "/tmp", **variables}
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def services(*profiles: str, **variables: str) -> dict[str, Any]:
    chosen = [word for profile in profiles for word in ("--profile", profile)]
    done = compose(*chosen, "config", "--format", "json", **variables)
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    found = json.loads(done.stdout)["services"]
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize("profile", ["inference", "train", "train-gpu"])
def test_a_profile_starts_one_hardened_service(profile: str) -> None:
    ((name, service),) = services(profile).items()
    assert name == profile
    assert {key: service.get(key) for key in RESTRICTIONS} == RESTRICTIONS


def test_without_a_profile_nothing_starts() -> None:
    done = compose("config", "--services")
    assert (done.returncode, done.stdout.strip()) == (0, "")


def test_inference_is_published_on_port_8000_or_another() -> None:
    (port,) = services("inference")["inference"]["ports"]
    assert (port["published"], port["target"]) == ("8000", 8000)
    other = services("inference", KILN_PUBLISHED_PORT="9000", KILN_IMAGE="ghcr.io/me/kiln:v1")
    assert other["inference"]["ports"][0]["published"] == "9000"
    assert other["inference"]["image"] == "ghcr.io/me/kiln:v1"


def test_only_the_gpu_profile_asks_for_a_gpu() -> None:
    assert "deploy" not in services("train")["train"]
    resources = services("train-gpu")["train-gpu"]["deploy"]["resources"]
    assert resources["reservations"]["devices"][0]["capabilities"] == ["gpu"]


def test_the_store_of_metrics_takes_and_tells_what_the_service_exports(tmp_path: Path) -> None:
    (service,) = services("observability").values()
    address = f"127.0.0.1:{free_port()}"
    replaced = [word.replace("/storage", str(tmp_path / "store")) for word in service["command"]]
    newest = [f"-httpListenAddr={address}", "-search.latencyOffset=0s"]
    program = str(require_program("victoria-metrics"))
    with subprocess.Popen([program, *replaced, *newest], stderr=subprocess.DEVNULL) as store:
        try:
            wait_until(lambda: ask(f"http://{address}/health") == b"OK", "the store to be ready")
            exported(f"http://{address}/opentelemetry/v1/metrics")
            wait_until(lambda: value(address, "kiln_tries_total") == "3", "the count to arrive")
        finally:
            store.terminate()


def ask(url: str) -> bytes:
    try:
        with urlopen(url, timeout=60) as answer:
            content: bytes = answer.read()
    except URLError:
        return b""
    return content


def value(address: str, metric: str) -> str | None:
    """What an instant query answers; a sample may be seen a moment after it was taken."""
    ask(f"http://{address}/internal/force_flush")
    found = json.loads(ask(f"http://{address}/api/v1/query?query={metric}&nocache=1"))
    return next((one["value"][1] for one in found["data"]["result"]), None)


def exported(endpoint: str) -> None:
    reader = PeriodicExportingMetricReader(OTLPMetricExporter(endpoint))
    provider = MeterProvider([reader])
    provider.get_meter("test").create_counter("kiln.tries").add(3)
    provider.shutdown()


@built.needs_image
def test_its_health_check_tells_a_server_that_is_ready_from_none(root: Root) -> None:
    kind, *command = services("inference")["inference"]["healthcheck"]["test"]
    assert kind == "CMD"
    with serving(root) as service:
        port = service.address.rpartition(":")[2]
        assert health(root, command, port) == 0
    assert health(root, command, port) == 1


def health(root: Root, command: list[str], port: str) -> int:
    inside = root.but(entrypoint=tuple(command))
    with running(inside, {"KILN_PORT": port}, stderr=subprocess.PIPE) as container:
        container.process.communicate(timeout=60)
    return container.process.returncode
