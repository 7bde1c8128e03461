"""The stack in containers, as far as it can be checked without an engine."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from common.programs import require_program
from infra.observability.catalogue import load
from infra.observability.dashboards import dashboards, grafana
from infra.observability.main import COMPOSE, ContainerPorts, Containers

FOLDER = COMPOSE.parent


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What `docker compose config` makes of it, with a webhook."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "webhook").write_text("http://127.0.0.1/services")
    environ = {"KILN_SLACK_WEBHOOK_FILE": str(folder / "webhook")}
    containers = Containers(folder, ContainerPorts(otlp=14318), environ)
    command = [str(require_program("docker-compose")), "--file", str(COMPOSE), "config"]
    done = subprocess.run(
        [*command, "--format", "json"],
        env={**os.environ, **containers.environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    routing = json.loads((folder / "alertmanager.yml").read_text())
    assert routing["receivers"][0]["slack_configs"][0]["api_url_file"].startswith("/run/secrets/")
    return found


def test_compose_accepts_it_and_all_parts_are_there(project: dict[str, Any]) -> None:
    wanted = {"collector", "prometheus", "tempo", "loki", "grafana", "alertmanager"}
    assert wanted <= set(project["services"])


def test_every_image_has_a_version(project: dict[str, Any]) -> None:
    for name, service_ in project["services"].items():
        _, _, tag = service_["image"].rpartition(":")
        assert tag[-1].isdigit(), f"{name}: {service_['image']}"


def test_every_file_that_is_mounted_is_there(project: dict[str, Any]) -> None:
    for name, service_ in project["services"].items():
        for volume in service_.get("volumes", ()):
            if volume["type"] == "bind":
                assert Path(volume["source"]).exists(), (name, volume["source"])


def test_nothing_listens_beyond_this_machine(project: dict[str, Any]) -> None:
    ports = [port for one in project["services"].values() for port in one.get("ports", ())]
    assert {port["host_ip"] for port in ports} == {"127.0.0.1"}
    assert "14318" in {port["published"] for port in ports}


def test_what_prometheus_scrapes_are_parts_of_the_project(project: dict[str, Any]) -> None:
    config = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
    targets = [t for job in config["scrape_configs"] for t in job["static_configs"][0]["targets"]]
    hosts = {target.partition(":")[0] for target in targets} - {"localhost"}
    assert hosts <= set(project["services"])


def test_promtool_accepts_its_configuration() -> None:
    command = [str(require_program("promtool")), "check", "config", "--syntax-only"]
    done = subprocess.run(
        [*command, str(FOLDER / "prometheus.yml")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_dashboards_and_links_use_data_sources_that_are_provisioned() -> None:
    folder = FOLDER.parent / "grafana" / "provisioning"
    sources = yaml.safe_load((folder / "datasources" / "kiln.yaml").read_text())["datasources"]
    kinds = {source["type"] for source in sources}
    assert {"prometheus", "tempo", "loki"} <= kinds
    (variable,) = (
        one
        for one in grafana(dashboards(load())[0])["templating"]["list"]
        if one["name"] == "datasource"
    )
    assert variable["query"] in kinds
    provider = yaml.safe_load((folder / "dashboards" / "kiln.yaml").read_text())["providers"][0]
    mounts = yaml.safe_load(COMPOSE.read_text())["services"]["grafana"]["volumes"]
    assert any(provider["options"]["path"] in mount for mount in mounts)
