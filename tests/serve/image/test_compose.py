"""compose.yaml: judged by Docker's own compose program, its commands run without an engine."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.serve.image import built
from tests.serve.image.container import Root, running
from tests.serve.image.http_service import serving
from tools.debian.program import require_program

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
