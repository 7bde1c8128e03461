"""ml/benchmark/main.py and what it measures with, on a network that takes milliseconds."""

import io
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from ml.artifact.artifact import ArtifactError
from ml.benchmark import main as program
from ml.benchmark.main import Field, of_files, of_network, print_table
from ml.benchmark.rounds import Benchmark, Contender, measure_rounds
from tests.ml.artifact.small_model import exported, sample
from tests.ml.drift.tiny_artifact import scenes, write_tiny_artifact


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("benchmark")


@pytest.fixture(scope="module")
def field(folder: Path) -> Field:
    data = sample()
    shutil.copy(exported().path, folder / "model.onnx")
    return of_network(data.network, folder / "model.onnx", data.images, folder)


@pytest.fixture(scope="module")
def result(field: Field, folder: Path) -> Benchmark:
    without_compiler = [
        replace(c, skipped="skipped: no compiler") if c.runtime == "compile" else c
        for c in field.contenders
    ]
    found = [*without_compiler, Contender("broken", "onnx", folder / "graph.pt")]
    return measure_rounds(
        found, field.size, field.flops, threads=[1], batches=[1, 4], seconds=0.04, rounds=2
    )


def printed(result: Benchmark) -> str:
    console = Console(file=io.StringIO(), width=200)
    print_table(result, console)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_every_contender_is_measured_at_every_batch_size(result: Benchmark) -> None:
    measured = {row.name: row.measurement for row in result.results if row.measurement}
    assert list(measured) == ["torch eager", "ONNX", "ONNX simplified", "ONNX INT8"]
    for measurement in measured.values():
        assert [point.batch for point in measurement.points] == [1, 4]
        assert all(0 < p.p50_ms <= p.p95_ms <= p.p99_ms for p in measurement.points)
        assert all(p.samples >= 10 for p in measurement.points)  # five and more in each round
        assert measurement.cold_load_s > 0


def test_memory_is_that_of_the_model_not_of_its_parent(result: Benchmark) -> None:
    memory = {r.name: r.measurement.peak_memory_bytes for r in result.results if r.measurement}
    assert memory["ONNX"] < 250e6 < memory["torch eager"]  # this process has imported torch


def test_what_cannot_run_says_why_and_stops_nothing(result: Benchmark) -> None:
    reasons = {row.name: row.skipped for row in result.results if not row.measurement}
    assert reasons["torch compile"] == "skipped: no compiler"
    assert "onnxruntime cannot load it" in reasons["broken"]


def test_the_table_shows_every_figure_and_every_reason(result: Benchmark) -> None:
    text = printed(replace(result, load=3.0))
    for row in result.results:
        assert row.name in text
        for point in row.measurement.points if row.measurement else ():
            assert f"{point.p95_ms:.2f}" in text
    assert "skipped: no compiler" in text
    assert "(load 3.0)" in text


def test_throughputs_that_range_widely_are_doubted(result: Benchmark) -> None:
    def with_spread(spread: float) -> Benchmark:
        rows = []
        for row in result.results:
            if m := row.measurement:
                points = tuple(replace(point, spread=spread) for point in m.points)
                row = replace(row, measurement=replace(m, points=points))
            rows.append(row)
        return replace(result, load=0.0, results=tuple(rows))

    assert with_spread(0.1).warnings() == []
    assert "8 of 8 " in with_spread(0.6).warnings()[0]
    assert "Unreliable:" not in printed(with_spread(0.1))


def test_results_are_written_for_tools_and_for_people(result: Benchmark, tmp_path: Path) -> None:
    files = program.write_results(result, tmp_path)
    assert [file.name for file in files] == ["benchmark.json", "benchmark.png", "benchmark.svg"]
    values = json.loads(files[0].read_text())
    assert values["flops_per_image"] == result.flops_per_image
    assert [row["name"] for row in values["results"]] == [row.name for row in result.results]
    assert "ONNX INT8" in files[2].read_text()


def test_a_benchmark_in_which_nothing_ran_is_drawn_too(result: Benchmark, tmp_path: Path) -> None:
    nothing = [replace(row, measurement=None, skipped="no") for row in result.results]
    failed = replace(result, results=tuple(nothing), load=0.0)
    assert len(program.write_results(failed, tmp_path)) == 3
    assert failed.warnings() == []


def run(*arguments: str) -> tuple[int, str]:
    console = Console(file=io.StringIO(), width=200)
    code = program.main(list(arguments), console)
    return code, console.file.getvalue()  # type: ignore[attr-defined]


@pytest.fixture
def _at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BUILD_WORKING_DIRECTORY", str(tmp_path))


@pytest.mark.usefixtures("_at_home")
def test_model_files_are_compared_as_they_are(field: Field, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "old/model.onnx").write_bytes((folder / "model.onnx").read_bytes())
    (tmp_path / "model.onnx").write_bytes((folder / "model.onnx").read_bytes())
    quick = ["--quick", "--threads", "1", "--batches", "2", "--seconds", "0.02"]
    code, text = run("old/model.onnx", "model.onnx", *quick)
    assert code == 0
    assert "old/model.onnx" in text
    values = json.loads((tmp_path / "benchmark-report/benchmark.json").read_text())
    assert values["rounds"] == 2
    assert [row["measurement"]["points"][0]["batch"] for row in values["results"]] == [2, 2]


@pytest.mark.usefixtures("_at_home")
@pytest.mark.parametrize(
    ("paths", "reason"),
    [
        (["empty"], "no trained network"),
        (["missing.onnx"], "missing.onnx"),
        (["odd.onnx"], "odd.onnx is refused"),
        (["empty", "odd.onnx"], "empty/model.onnx"),
    ],
)
def test_what_is_no_model_is_refused_in_one_line(
    tmp_path: Path, paths: list[str], reason: str
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "odd.onnx").write_bytes(b"hello")
    code, text = run(*paths)
    assert code == 2
    assert reason in text
    assert "Traceback" not in text


def test_the_same_model_twice_is_refused(field: Field, folder: Path) -> None:
    with pytest.raises(ArtifactError):
        of_files([folder / "model.onnx", folder / "model.onnx"])


def test_models_of_different_sizes_are_refused(field: Field, folder: Path, tmp_path: Path) -> None:
    write_tiny_artifact(tmp_path / "small.onnx", scenes(10))
    with pytest.raises(ArtifactError, match=r"model.onnx: 16 x 16.*: 8 x 8"):
        of_files([folder / "model.onnx", tmp_path / "small.onnx"])


@pytest.mark.parametrize(
    "arguments",
    [["run", "--threads", "0"], ["run", "--batches", "x"], ["run", "--seconds", "-1"]],
)
def test_bad_arguments_are_refused_with_the_usage(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as refusal:
        run(*arguments)
    assert refusal.value.code == 2
    assert "//ml:benchmark" in capsys.readouterr().err
