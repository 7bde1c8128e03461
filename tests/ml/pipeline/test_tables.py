"""The tables and figures that DVC compares."""

import csv
import io
from pathlib import Path

import numpy as np
import pytest

from ml.artifact.evaluation import evaluate
from ml.pipeline.benchmark import arguments, figures, summary_rows
from ml.pipeline.evaluate import Evaluated, read_evaluated
from ml.pipeline.layout import ChoicesError
from ml.pipeline.prepare import hashes
from ml.runs.folder import RunFolder


def _read(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


@pytest.fixture
def evaluated_run(tmp_path: Path) -> tuple[RunFolder, Evaluated]:
    run = RunFolder(tmp_path)
    run.config.write_text("seed: 0\n")
    run.weights.write_bytes(b"weights")
    probabilities = np.array([[0.8, 0.2], [0.6, 0.4], [0.1, 0.9]], dtype=np.float32)
    evaluated = Evaluated(probabilities, evaluate(probabilities, [0, 1, 1], ("cat", "dog")))
    evaluated.write(run)
    return run, evaluated


def test_an_evaluation_is_read_back_and_its_tables_add_up(
    evaluated_run: tuple[RunFolder, Evaluated],
) -> None:
    run, evaluated = evaluated_run
    found = read_evaluated(run)
    assert found is not None
    assert found.evaluation == evaluated.evaluation
    np.testing.assert_array_equal(found.probabilities, evaluated.probabilities)
    confusion = _read((run.path / "evaluation" / "confusion.csv").read_text())
    cells = {(r["actual"], r["predicted"]): (r["images"], r["share"]) for r in confusion}
    assert cells == {
        ("cat", "cat"): ("1", "1"),
        ("cat", "dog"): ("0", "0"),
        ("dog", "cat"): ("1", "0.5"),
        ("dog", "dog"): ("1", "0.5"),
    }
    reliability = _read((run.path / "evaluation" / "reliability.csv").read_text())
    assert sum(int(row["images"]) for row in reliability) == 3
    classes = _read((run.path / "evaluation" / "classes.csv").read_text())
    assert [row["class"] for row in classes] == ["cat", "dog"]


def test_an_evaluation_of_other_weights_does_not_count(
    evaluated_run: tuple[RunFolder, Evaluated],
) -> None:
    run, _ = evaluated_run
    run.weights.write_bytes(b"others")
    assert read_evaluated(run) is None


def test_hashes_are_those_of_sha256sum_sorted_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "b").write_text("")
    (tmp_path / "a").write_text("x")
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"  # sha256
    x = "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"  # sha256
    assert hashes(["b", "gone", "a"]) == f"{x}  a\n{empty}  b\n"


def test_the_choices_for_the_benchmark_are_what_one_types() -> None:
    typed = arguments({"threads": [1, 2], "seconds": 0.5}, Path("run"))
    assert typed == ["run", "--threads", "1", "2", "--seconds", "0.5"]
    with pytest.raises(ChoicesError, match=r"\bsecond\b"):
        arguments({"second": 1}, Path("run"))


def test_a_benchmark_is_summed_up_by_contender() -> None:
    points = [
        {"batch": 1, "p50_ms": 0.5, "images_per_s": 2000.0},
        {"batch": 32, "p50_ms": 8.0, "images_per_s": 4000.0},
    ]
    measured = {"points": points, "peak_memory_bytes": 1e8, "cold_load_s": 0.25}
    results = {
        "results": [
            {"name": "ONNX INT8", "threads": 1, "size_bytes": 2e6, "measurement": measured},
            {"name": "torch compile", "threads": 1, "size_bytes": 1, "measurement": None},
        ]
    }
    rows = list(summary_rows(results))
    assert rows == [["ONNX INT8", 0.5, 4000.0, 2.0, 100.0, 0.25]]
    assert figures(rows)["onnx_int8"]["images_per_s"] == 4000
