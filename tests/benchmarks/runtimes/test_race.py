"""benchmarks/runtimes: the same images for all, answers compared, and what cannot run says why."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from benchmarks.runtimes import main as race
from common.model.artifact import INPUT, PROBABILITIES
from common.programs import python_environment
from serve.inference.model_path import read_model
from tests.serve.serving import MODEL

METADATA = read_model(MODEL)


def test_a_contender_answers_as_the_model_does_and_is_timed(tmp_path: Path) -> None:
    files = [tmp_path / "images.npy", tmp_path / "answers.npy"]
    np.save(files[0], race.images(METADATA)[:5])
    command = [sys.executable, str(race._FOLDER / "contender.py"), "onnxruntime", str(MODEL)]
    done = subprocess.run(
        [*command, *map(str, files), "0.01", "1"],
        env=python_environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    figures = json.loads(done.stdout)
    assert [*figures] == ["first_answer_s", "lone_ms", "batch_images_per_s"]
    assert min(figures.values()) > 0
    answers = np.load(files[1])
    own = np.array(METADATA.parity.probabilities)
    assert np.abs(answers[: len(own)] - own).max() <= METADATA.parity.tolerance


def test_what_a_runtime_says_is_its_reason(tmp_path: Path) -> None:
    entrant = race.Race(MODEL, METADATA, tmp_path, tmp_path, tmp_path, 0.01)
    entry = entrant.run("ncnn")  # which is not installed there
    assert entry.reason.startswith("ModuleNotFoundError")
    assert entry.lone_ms is None
    assert entry.largest_difference is None


def test_answers_that_differ_are_told_from_equal_ones(tmp_path: Path) -> None:
    entrant = race.Race(MODEL, METADATA, tmp_path, tmp_path, tmp_path, 0.01)
    expected = np.array([[0.9, 0.1], [0.2, 0.8]], np.float32)
    np.save(tmp_path / "onnxruntime.npy", expected)
    close, far = race.Entry("a", "int8"), race.Entry("b", "int8")
    entrant._compare(close, expected + np.float32(1e-4))
    entrant._compare(far, expected[:, ::-1])
    assert close.largest_difference == pytest.approx(1e-4, rel=0.01)
    assert close.same_class == 1
    assert far.largest_difference == pytest.approx(0.8)
    assert far.same_class == 0


def test_ncnn_gets_the_graph_behind_the_cast(tmp_path: Path) -> None:
    target = tmp_path / "inner.onnx"
    race.write_inner_graph(MODEL.with_name("model.onnx"), target)
    [given] = onnx.load(target).graph.input
    assert given.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    pixels = race.images(METADATA)[:3]
    inner = ort.InferenceSession(target, providers=["CPUExecutionProvider"])
    whole = ort.InferenceSession(MODEL.with_name("model.onnx"), providers=["CPUExecutionProvider"])
    planes = pixels.transpose(0, 3, 1, 2).astype(np.float32)
    [found] = inner.run([PROBABILITIES], {given.name: planes})
    [expected] = whole.run([PROBABILITIES], {INPUT: pixels})
    assert found == pytest.approx(expected, abs=1e-6)


def test_the_size_of_a_distribution_is_that_of_its_files(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "code.so").write_bytes(bytes(2_000_000))
    info = tmp_path / "Some_One-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: Some-One\nVersion: 1.0\n")
    (info / "RECORD").write_text("one/code.so,,\nSome_One-1.0.dist-info/gone,,\n")
    assert race.size_mb(tmp_path, ["some-one"]) == pytest.approx(2.0)
    assert race.size_mb(tmp_path, ["another"]) == 0


def test_a_converter_gets_a_copy_since_it_may_write_into_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[str] = []
    monkeypatch.setattr(race.Race, "_python", lambda _, packages, *words: given.extend(words))
    entrant = race.Race(MODEL, METADATA, tmp_path, tmp_path, tmp_path, 0.01)
    with pytest.raises(race.Unfit, match="onnx2tf"):
        entrant._for_litert()
    assert str(MODEL) not in given[-1]
    assert (tmp_path / "copy.onnx").read_bytes() == MODEL.read_bytes()
