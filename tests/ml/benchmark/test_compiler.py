"""ml/benchmark/compiler.py: what torch.compile needs is found, or its absence said."""

from pathlib import Path

import pytest
import torch

from ml.artifact.export import ServingGraph
from ml.benchmark.compiler import compiler_environment, uncompilable
from ml.benchmark.latency import Job
from ml.benchmark.rounds import Worker
from tests.ml.artifact.small_model import MEAN, STD


def test_a_missing_compiler_is_noticed_beforehand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert "install g++" in uncompilable()


def test_missing_headers_are_noticed_beforehand(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("shutil.which", lambda name: "/usr/bin/g++")
    monkeypatch.setattr(torch, "__file__", str(tmp_path / "__init__.py"))
    assert "needs include, which this installation" in uncompilable()
    (tmp_path / "include").mkdir()
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path))
    assert "needs Python.h" in uncompilable()
    (tmp_path / "Python.h").touch()
    assert uncompilable() == ""


def test_headers_are_found_behind_a_symbolic_link(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    include = tmp_path / "installed" / "include"
    include.mkdir(parents=True)
    (tmp_path / "installed" / "__init__.py").touch()
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "__init__.py").symlink_to(tmp_path / "installed" / "__init__.py")
    monkeypatch.setattr(torch, "__file__", str(tmp_path / "linked" / "__init__.py"))
    monkeypatch.setenv("CPLUS_INCLUDE_PATH", "/mine")

    expected = f"{include}:{include}/torch/csrc/api/include:/mine"
    assert compiler_environment() == {"CPLUS_INCLUDE_PATH": expected}


def test_headers_beside_the_module_need_no_variable(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "include").mkdir()
    monkeypatch.setattr(torch, "__file__", str(tmp_path / "__init__.py"))
    assert compiler_environment() == {}


def test_a_compiled_network_is_timed(tmp_path: Path) -> None:
    if reason := uncompilable():
        pytest.skip(reason)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 16 * 16, 4))
    graph = ServingGraph(network, MEAN, STD).eval()
    torch.save(graph, tmp_path / "graph.pt")

    worker = Worker(Job("compile", str(tmp_path / "graph.pt"), 1, (16, 16)), tmp_path / "cache")
    point = worker.time(2, 0.01)
    worker.finish()

    assert point.samples >= 5
    assert list((tmp_path / "cache").rglob("*.so")), "nothing was compiled"
