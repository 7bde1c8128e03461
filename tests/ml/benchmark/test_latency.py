"""ml/benchmark/latency.py, the process that it runs in, and the machine's roof above it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from ml.artifact.export import ServingGraph, to_onnx
from ml.artifact.quantise import quantised
from ml.benchmark import latency
from ml.benchmark.latency import (
    Job,
    Point,
    compiler_environment,
    median_of_rounds,
    summarise,
    time_batches,
    uncompilable,
)
from ml.benchmark.main import distinct_names, flops_per_image
from ml.benchmark.rounds import Worker, WorkerError, peak_gflops
from tests.ml.artifact.small_model import MEAN, STD, sample


def test_latency_percentiles_and_throughput_are_those_of_the_samples() -> None:
    point = summarise(8, [0.001 * n for n in range(1, 101)])
    assert point.samples == 100
    assert [point.p50_ms, point.p95_ms, point.p99_ms] == pytest.approx([50.5, 95.05, 99.01])
    assert point.images_per_s == pytest.approx(8 / 0.0505)


def test_a_round_that_was_disturbed_does_not_move_the_median() -> None:
    rounds = [
        Point(4, 10, 1.0, 2.0, 3.0, 900.0),
        Point(4, 10, 50.0, 60.0, 70.0, 60.0),
        Point(4, 12, 1.2, 2.2, 3.2, 800.0),
    ]
    point = median_of_rounds(rounds)
    assert point == Point(4, 32, 1.2, 2.2, 3.2, 800.0, spread=(900 - 60) / 800)


def test_a_batch_is_timed_five_times_however_slow_it_is() -> None:
    seen = list[int]()
    point = time_batches(
        lambda images: seen.append(len(images)), np.zeros((3, 2, 2, 3), np.uint8), 0
    )
    assert (point.batch, point.samples) == (3, 5)
    assert seen == [3] * 7  # two before the clock starts


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file whose text is run instead of the true child."""
    path = tmp_path / "child.py"
    monkeypatch.setattr(latency, "__file__", str(path))
    return path


JOB = Job("onnx", "model.onnx", 1, (8, 8))


def test_a_child_that_fails_is_quoted_by_its_exception(program: Path, tmp_path: Path) -> None:
    program.write_text(
        "import sys\n"
        "print('Traceback', 'torch.Special.Error: no such thing', 'Set X=1 for advice',"
        " sep='\\n', file=sys.stderr)\nsys.exit(1)\n"
    )
    with pytest.raises(WorkerError, match=r"failed: torch.Special.Error: no such thing$"):
        Worker(JOB, tmp_path)


def test_a_child_that_dies_while_timing_is_noticed(program: Path, tmp_path: Path) -> None:
    program.write_text("print('{\"cold_load_s\": 1}', flush=True)\ninput()\n")
    worker = Worker(JOB, tmp_path)
    with pytest.raises(WorkerError, match="failed: no message"):
        worker.time(1, 0.1)
    with pytest.raises(WorkerError, match="failed"):
        worker.finish()
    worker.close()


def test_a_child_that_hangs_is_ended(program: Path, tmp_path: Path) -> None:
    program.write_text("import time\ntime.sleep(600)\n")
    with pytest.raises(WorkerError, match=r"0[.]2 s"):
        Worker(JOB, tmp_path, timeout_s=0.2)


def test_operations_are_counted_as_pytorch_counts_them() -> None:
    data = sample()
    model = to_onnx(data.network, (16, 16), MEAN, STD)
    graph = ServingGraph(data.network, MEAN, STD).eval()
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        graph(torch.from_numpy(data.images[:5]))
    assert flops_per_image(model) == counter.get_total_flops() // 5
    assert flops_per_image(quantised(model, data.images)) == counter.get_total_flops() // 5


def test_operations_are_counted_as_by_hand() -> None:
    convolution = torch.nn.Conv2d(3, 8, 3, padding=1)
    network = torch.nn.Sequential(convolution, torch.nn.Flatten(), torch.nn.Linear(8 * 36, 4))
    by_hand = 2 * 36 * 8 * 27 + 2 * 8 * 36 * 4
    assert flops_per_image(to_onnx(network, (6, 6), MEAN, STD)) == by_hand


def test_the_peak_is_measured_and_the_thread_count_restored() -> None:
    before = torch.get_num_threads()
    assert 1 < peak_gflops(1) < 1e5
    assert torch.get_num_threads() == before


def test_names_are_as_long_as_it_takes() -> None:
    paths = [Path("/a/x/model.onnx"), Path("/b/x/model.onnx")]
    assert distinct_names(paths) == ["a/x/model.onnx", "b/x/model.onnx"]
    assert distinct_names(paths[:1]) == ["model.onnx"]


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
    layers = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16 * 16 * 3, 10))
    graph = ServingGraph(layers, MEAN, STD).eval()
    torch.save(graph, tmp_path / "graph.pt")

    worker = Worker(Job("compile", str(tmp_path / "graph.pt"), 1, (16, 16)), tmp_path / "cache")
    point = worker.time(2, 0.01)
    worker.finish()

    assert point.samples >= 5
    assert list((tmp_path / "cache").rglob("*.so")), "nothing was compiled"
