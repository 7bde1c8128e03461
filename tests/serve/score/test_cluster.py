"""Scoring on a real Ray cluster of two nodes on this machine: the bytes of a local run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
from ray._private.state import actors
from ray.cluster_utils import Cluster

from serve.score.main import main
from tests.helpers.waiting import PATIENCE_S, wait_until
from tests.serve.score.files import photos
from tests.serve.serving import MODEL

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Ray's, of its own settings
# Parts of five rows; after five tables the driver waits to be killed.
_STOPS = """
import time
from itertools import count
from serve.score import main, results
results._ROWS = 5
add, numbers = results.Parts.add, count(1)
def stops(self, start, table):
    add(self, start, table)
    if next(numbers) == 5:
        time.sleep(600)
results.Parts.add = stops
main.run()
"""
_ENVIRONMENT = {
    "RAY_AUTH_MODE": "disabled",  # the token would be a file in the home folder
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",  # of 15: on a busy machine its workers would not start
}


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Of two nodes with a CPU each."""
    node = {"num_cpus": 1, "object_store_memory": 200 << 20, "include_dashboard": False}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in _ENVIRONMENT.items():
            patch.setenv(name, value)
        cluster = Cluster(initialize_head=True, head_node_args=node)
        try:
            cluster.add_node(**node)
            yield cluster.address
        finally:
            cluster.shutdown()


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BUILD_WORKING_DIRECTORY", str(tmp_path))
    monkeypatch.setenv("KILN_MODEL", str(MODEL.absolute()))
    photos(tmp_path / "photos", 40)
    (tmp_path / "photos/0007.png").write_bytes(b"no image")
    return tmp_path


def test_a_killed_run_resumes_on_both_nodes_with_the_bytes_of_a_local_one(
    here: Path, address: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["photos", "--out", "out.parquet", "--batch-size", "2", "--ray", address]
    killed = subprocess.Popen(
        [sys.executable, "-c", _STOPS, *command],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    wait_until(lambda: list(here.glob("out.parquet.parts/*-*.parquet")))
    killed.send_signal(signal.SIGKILL)
    assert killed.wait(PATIENCE_S) == -signal.SIGKILL

    nodes, end = set[str](), ray.shutdown

    def ends() -> None:
        nodes.update(
            one["Address"]["NodeID"]
            for one in actors().values()
            if one["ActorClassName"].startswith("MapWorker")
        )
        end()

    monkeypatch.setattr(ray, "shutdown", ends)
    assert main(command) == 0
    assert "resuming: " in capsys.readouterr().err
    assert len(nodes) == 2
    assert main(["photos", "--out", "local.parquet"]) == 0
    assert (here / "out.parquet").read_bytes() == (here / "local.parquet").read_bytes()


def test_an_address_that_is_none_is_one_error(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["photos", "--out", "a.parquet", "--ray", "nowhere"]) == 1
    assert "kiln: error: no Ray cluster answers at nowhere" in capsys.readouterr().err
