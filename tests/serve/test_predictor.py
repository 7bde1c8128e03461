"""serve/inference/predictor.py: only a verified artifact answers, and as it answered when it was
exported."""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate, chain, cycle, repeat
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.typing import NDArray

from common.model.artifact import ArtifactError, ArtifactMetadata
from serve.inference import model_path as places
from serve.inference import predictor as sessions
from serve.inference.model_path import model_path, precision_of, read_model
from serve.inference.predictor import Predictor
from serve.settings import Settings
from tests.serve.serving import MODEL, bundled_predictor, pixels


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return bundled_predictor()


def test_probabilities_sum_to_one_whatever_the_batch(predictor: Predictor) -> None:
    images = np.stack([pixels(seed) for seed in range(40)])
    together = predictor(images)
    assert together.shape == (40, len(predictor.metadata.classes))
    assert together.sum(axis=1) == pytest.approx(1, abs=1e-5)
    alone = np.concatenate([predictor(image[np.newaxis]) for image in images])
    assert np.abs(together - alone).max() < 1e-5


def test_the_artifacts_own_images_get_the_recorded_answers(predictor: Predictor) -> None:
    predictor.check()


def test_other_answers_than_the_recorded_ones_are_refused(predictor: Predictor) -> None:
    forgetful = Predictor(MODEL.read_bytes())
    parity = forgetful.metadata.parity
    rolled = tuple((*row[1:], row[0]) for row in parity.probabilities)
    forgetful.metadata = replace(forgetful.metadata, parity=replace(parity, probabilities=rolled))
    with pytest.raises(ArtifactError, match=f" {parity.tolerance:.2g}$"):
        forgetful.check()


@pytest.mark.parametrize(
    "answers",
    [np.zeros((99, 10)), np.zeros(10), RuntimeError("no such input"), MemoryError()],
    ids=["images", "classes", "run", "memory"],
)
def test_a_session_that_cannot_answer_the_artifacts_own_images_is_refused(
    answers: NDArray[np.float64] | Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(_: Predictor, __: NDArray[np.uint8]) -> NDArray[np.float64]:
        if isinstance(answers, Exception):
            raise answers
        return answers

    predictor = Predictor(MODEL.read_bytes())
    monkeypatch.setattr(Predictor, "__call__", run)
    with pytest.raises(ArtifactError) as refusal:
        predictor.check()
    if isinstance(answers, Exception):
        assert refusal.value.__cause__ is answers
    else:
        assert str(answers.shape) in str(refusal.value)


def test_a_damaged_artifact_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(MODEL.read_bytes()[:-100])
    with pytest.raises(ArtifactError, match=f" {path}: "):
        Predictor.load(path)


def test_a_missing_artifact_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"none[.]onnx") as refusal:
        Predictor.load(tmp_path / "none.onnx")
    assert isinstance(refusal.value.__cause__, FileNotFoundError)


FP32 = MODEL.with_name("model.onnx")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One model in both precisions, as the service finds it where it was built in."""
    shutil.copy(MODEL, tmp_path / "model.onnx")
    shutil.copy(FP32, tmp_path / "model.fp32.onnx")
    return tmp_path


def refuse_to_choose(paths: Sequence[Path], threads: int) -> Path:
    raise AssertionError(f"there was nothing to choose among {paths}")


def test_what_kiln_comes_with_is_int8() -> None:
    assert precision_of(read_model(MODEL)) == "int8"
    assert precision_of(read_model(FP32)) == "fp32"


@pytest.mark.parametrize(
    ("precision", "name"), [("int8", "model.onnx"), ("fp32", "model.fp32.onnx")]
)
def test_the_precision_that_is_asked_for_is_taken_from_a_folder(
    folder: Path, precision: str, name: str
) -> None:
    settings = Settings.from_environment({"KILN_MODEL": str(folder), "KILN_PRECISION": precision})
    assert model_path(settings, refuse_to_choose) == folder / name


def test_the_faster_of_a_folder_is_taken_where_none_is_asked_for(folder: Path) -> None:
    asked: list[Sequence[Path]] = []

    def choose(paths: Sequence[Path], threads: int) -> Path:
        asked.append(paths)
        return paths[1]

    settings = Settings(model=folder, threads=1)
    assert model_path(settings, choose) == folder / "model.fp32.onnx"
    assert asked == [[folder / "model.onnx", folder / "model.fp32.onnx"]]


def test_a_folder_with_one_model_and_a_file_leave_no_choice(folder: Path) -> None:
    assert model_path(Settings(model=folder / "model.onnx"), refuse_to_choose).parent == folder
    (folder / "model.fp32.onnx").unlink()
    assert model_path(Settings(model=folder), refuse_to_choose) == folder / "model.onnx"


def test_another_training_beside_the_model_is_no_choice(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(path: Path, key: str) -> ArtifactMetadata:
        found = read_model(path)
        return replace(found, config_digest="0" * 64) if path.stem == "model.fp32" else found

    monkeypatch.setattr(places, "read_model", read)
    assert model_path(Settings(model=folder), refuse_to_choose) == folder / "model.onnx"
    with pytest.raises(ArtifactError, match=r"KILN_PRECISION .*'fp32', .* int8: "):
        model_path(Settings(model=folder, precision="fp32"))


def test_a_file_of_another_precision_than_asked_for_is_refused() -> None:
    with pytest.raises(ArtifactError, match=r"KILN_PRECISION .*'int8', .* fp32: "):
        model_path(Settings(model=FP32, precision="int8"), refuse_to_choose)


@pytest.mark.parametrize(("seconds", "faster"), [((0.002, 0.001), 1), ((0.001, 0.002), 0)])
def test_the_faster_is_what_takes_less_time_at_best(
    seconds: tuple[float, float], faster: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow_at_first = chain((1.0, 1.0), cycle(seconds))  # a machine that was busy for a moment
    readings = accumulate(chain.from_iterable(zip(repeat(0.0), slow_at_first)))
    monkeypatch.setattr(sessions, "time", SimpleNamespace(perf_counter=readings.__next__))
    monkeypatch.setattr(sessions.Predictor, "load", lambda *_: SimpleNamespace(check=lambda: None))
    paths = [Path("a/model.onnx"), Path("a/model.int8.onnx")]
    assert sessions.fastest(paths) == paths[faster]
