"""ml/benchmark.py and what it measures with, on a network that takes milliseconds."""

import io
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console

from ml import benchmark as module
from ml.benchmark import Benchmark, Contender, benchmark, contenders, print_table, write_results
from ml.child_process import python_environment
from ml.export import ServingGraph, export_artifact
from ml.latency import Measurement, Point, summarise
from ml.roofline import flops_per_image, peak_gflops
from tests.ml.small_model import MEAN, STD, sample


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Benchmark:
    folder, data = tmp_path_factory.mktemp("benchmark"), sample()
    export_artifact(data.network, folder / "model.onnx", **data.export_arguments())
    found, graph, size = contenders(data.network, folder / "model.onnx", data.images, folder)
    without_compiler = [
        replace(c, skipped="skipped: no compiler") if c.runtime == "compile" else c for c in found
    ]
    broken = Contender("broken", "onnx", folder / "graph.pt")
    return benchmark(
        [*without_compiler, broken], graph, size, threads=[1], batches=[1, 4], seconds=0.02
    )


def test_every_contender_is_measured_at_every_batch_size(result: Benchmark) -> None:
    measured = {row.name: row.measurement for row in result.results if row.measurement}
    assert list(measured) == ["torch eager", "ONNX", "ONNX simplified", "ONNX INT8"]
    for measurement in measured.values():
        assert [point.batch for point in measurement.points] == [1, 4]
        assert all(0 < p.p50_ms <= p.p95_ms <= p.p99_ms for p in measurement.points)
        assert 0 < measurement.cold_load_s < 60


def test_memory_is_that_of_the_model_not_of_its_parent(result: Benchmark) -> None:
    memory = {r.name: r.measurement.peak_memory_bytes for r in result.results if r.measurement}
    assert memory["ONNX"] < 250e6 < memory["torch eager"]  # this process has imported torch


def test_what_cannot_run_says_why_and_stops_nothing(result: Benchmark) -> None:
    reasons = {row.name: row.skipped for row in result.results if not row.measurement}
    assert reasons["torch compile"] == "skipped: no compiler"
    assert "onnxruntime cannot load it" in reasons["broken"]


def test_the_table_shows_every_figure_and_every_reason(result: Benchmark) -> None:
    console = Console(file=io.StringIO(), width=200)
    print_table(replace(result, load=3.0), console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    for row in result.results:
        assert row.name in text
        for point in row.measurement.points if row.measurement else ():
            assert f"{point.p50_ms:.2f}" in text
    assert "skipped: no compiler" in text
    assert "The machine was busy (load 3.0)" in text


def test_results_are_written_for_tools_and_for_people(result: Benchmark, tmp_path: Path) -> None:
    files = write_results(result, tmp_path)
    assert [file.name for file in files] == ["benchmark.json", "benchmark.png", "benchmark.svg"]
    values = json.loads(files[0].read_text())
    assert values["flops_per_image"] == result.flops_per_image
    assert [row["name"] for row in values["results"]] == [row.name for row in result.results]
    assert "ONNX INT8" in files[2].read_text()


def test_a_missing_compiler_is_noticed_beforehand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert "install g++" in module._uncompilable()


def test_missing_headers_are_noticed_beforehand(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("shutil.which", lambda name: "/usr/bin/g++")
    monkeypatch.setattr(torch, "__file__", str(tmp_path / "__init__.py"))
    assert "needs include, which this installation leaves out" in module._uncompilable()
    (tmp_path / "include").mkdir()
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path))
    assert "needs Python.h" in module._uncompilable()
    (tmp_path / "Python.h").touch()
    assert module._uncompilable() == ""


def test_latency_percentiles_and_throughput_are_those_of_the_samples() -> None:
    point = summarise(8, [0.001 * n for n in range(1, 101)])
    assert point.samples == 100
    assert [point.p50_ms, point.p95_ms, point.p99_ms] == pytest.approx([50.5, 95.05, 99.01])
    assert point.images_per_s == pytest.approx(8 / 0.0505)


def test_measurements_survive_their_journey_between_processes() -> None:
    measurement = Measurement(0.5, 1000, (Point(1, 5, 1.0, 2.0, 3.0, 900.0),))
    text = json.dumps(measurement, default=lambda value: value.__dict__)
    assert Measurement.from_json(text) == measurement


def test_operations_are_counted_as_by_hand() -> None:
    convolution = torch.nn.Conv2d(3, 8, 3, padding=1)
    network = torch.nn.Sequential(convolution, torch.nn.Flatten(), torch.nn.Linear(8 * 36, 4))
    images = torch.zeros(5, 6, 6, 3, dtype=torch.uint8)
    by_hand = 2 * 36 * 8 * 27 + 2 * 8 * 36 * 4
    assert flops_per_image(ServingGraph(network, MEAN, STD), images) == by_hand


def test_the_peak_is_measured_and_the_thread_count_restored() -> None:
    before = torch.get_num_threads()
    assert 1 < peak_gflops(1) < 1e5
    assert torch.get_num_threads() == before


def test_a_folder_without_a_run_is_refused_in_one_line(tmp_path: Path) -> None:
    child = subprocess.run(
        [sys.executable, module.__file__, str(tmp_path)],
        env=python_environment(),
        capture_output=True,
        text=True,
    )
    assert child.returncode == 2
    assert "is not a run folder" in " ".join(child.stdout.split())
    assert "Traceback" not in child.stderr


@pytest.mark.parametrize("arguments", [[], ["run", "--threads", "0"], ["run", "--batches", "x"]])
def test_bad_arguments_are_refused_with_the_usage(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as refusal:
        module.main(arguments, Console())
    assert refusal.value.code == 2
    assert "usage: benchmark" in capsys.readouterr().err
