"""Scoring on a real Ray cluster of two nodes on this machine: the bytes of a local run."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import ray
from ray._private import services
from ray._private.state import actors
from ray.cluster_utils import Cluster

from serve.score.main import main
from tests.helpers.waiting import PATIENCE_S, wait_until
from tests.serve.score.files import photos, start
from tests.serve.serving import MODEL

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Ray's, of its own settings
_ENVIRONMENT = {
    "RAY_AUTH_MODE": "disabled",  # the token would be a file in the home folder
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",  # of 15: on a busy machine its workers would not start
    # Workers without the job's environment, which it could not use.
    "RAY_enable_worker_prestart": "0",
    "RAY_prestart_worker_first_driver": "0",
    # Of the time that a process has to start or to answer, in ms or s.
    "RAY_agent_register_timeout_ms": "600000",
    "RAY_health_check_timeout_ms": "600000",
    "RAY_worker_register_timeout_seconds": "600",
}
_NODE = {
    "num_cpus": 1,
    "object_store_memory": 80 << 20,
    "include_dashboard": False,
    "include_log_monitor": False,
    "no_monitor": True,  # it would add and remove machines
}


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Of two nodes with a CPU each, however long they take to start."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in _ENVIRONMENT.items():
            patch.setenv(name, value)
        patch.setattr(services, "get_node", partial(_registered, services.get_node))
        cluster = Cluster(initialize_head=True, head_node_args=_NODE)
        try:
            cluster.add_node(**_NODE)
            yield cluster.address
        finally:
            cluster.shutdown()


def _registered(get_node: Any, gcs_address: str, node_id: str) -> Any:
    """The node, once it is known: Ray itself gives up after 30 s."""
    found = []

    def known() -> bool:
        try:
            found.append(get_node(gcs_address, node_id))
        except RuntimeError:
            return False
        return True

    wait_until(known, f"node {node_id}", every_s=0.2)
    return found[0]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BUILD_WORKING_DIRECTORY", str(tmp_path))
    monkeypatch.setenv("KILN_MODEL", str(MODEL.absolute()))
    photos(tmp_path / "photos", 40)
    (tmp_path / "photos/0007.png").write_bytes(b"no image")
    return tmp_path


def test_a_run_that_was_killed_goes_on_on_both_nodes_and_ends_with_the_bytes_of_a_local_one(
    here: Path, address: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    killed = start(here, "photos", "--out", "out.parquet", "--batch-size", "1", most=20)
    wait_until(lambda: list(here.glob("out.parquet.parts/*-*.parquet")))
    killed.kill()
    killed.communicate(timeout=PATIENCE_S)

    nodes, end = set[str](), ray.shutdown

    def ends() -> None:
        nodes.update(
            one["Address"]["NodeID"]
            for one in actors().values()
            if one["ActorClassName"].startswith("MapWorker")
        )
        end()

    monkeypatch.setattr(ray, "shutdown", ends)
    on_both = ["photos", "--out", "out.parquet", "--batch-size", "1", "--ray", address]
    assert main(on_both) == 0
    assert "resuming: " in capsys.readouterr().err
    assert len(nodes) == 2
    assert main(["photos", "--out", "local.parquet"]) == 0
    assert (here / "out.parquet").read_bytes() == (here / "local.parquet").read_bytes()


def test_an_address_that_is_none_is_one_error(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["photos", "--out", "a.parquet", "--ray", "nowhere"]) == 1
    assert "nowhere" in capsys.readouterr().err
