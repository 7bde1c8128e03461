"""serve/inference: only a verified artifact answers, as it answered when it was exported; requests
together in one run, and the doors closed when too many come."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate, chain, cycle, repeat
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.typing import NDArray

from common.model.artifact import ArtifactError, ArtifactMetadata
from serve.errors import Overloaded
from serve.inference import model_path as places
from serve.inference import predictor as sessions
from serve.inference.model_path import model_path, precision_of, read_model
from serve.inference.predictor import Batcher, Inference, Predictor
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


class Recorder:
    """Answers with each image's first value, and remembers the sizes of its runs."""

    def __init__(self) -> None:
        self.runs: list[int] = []

    def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        self.runs.append(len(images))
        return images[:, 0, 0, :1].astype(np.float32)


def images(*values: int) -> NDArray[np.uint8]:
    return np.stack([np.full((2, 2, 3), value, np.uint8) for value in values])


def batcher(predict: Recorder, **changes: float) -> Batcher:
    options = {"max_batch": 4, "max_queue": 100, "deadline_s": 60.0} | changes
    return Batcher(
        predict, int(options["max_batch"]), int(options["max_queue"]), options["deadline_s"]
    )


def values(answer: Inference) -> list[float]:
    return [float(row[0]) for row in answer.probabilities]


def test_concurrent_requests_share_runs_and_get_their_own_answers() -> None:
    predict = Recorder()

    async def ask() -> list[Inference]:
        ours = batcher(predict)
        return await asyncio.gather(*(ours(images(value)) for value in range(10)))

    answers = asyncio.run(ask())
    assert [values(answer) for answer in answers] == [[float(value)] for value in range(10)]
    assert predict.runs == [4, 4, 2]
    assert [answer.batch for answer in answers] == [4] * 8 + [2] * 2


def test_a_lone_request_waits_for_nobody() -> None:
    predict = Recorder()
    assert values(asyncio.run(batcher(predict)(images(7)))) == [7.0]
    assert predict.runs == [1]


def test_a_large_request_is_answered_in_parts_and_in_order() -> None:
    predict = Recorder()

    async def ask() -> tuple[Inference, Inference]:
        ours = batcher(predict)
        return await asyncio.gather(ours(images(*range(10))), ours(images(99)))

    large, small = asyncio.run(ask())
    assert values(large) == [float(value) for value in range(10)]
    assert values(small) == [99.0]
    assert max(predict.runs) <= 4


def test_a_run_never_mixes_up_requests_of_different_sizes() -> None:
    predict = Recorder()
    sizes = [1, 3, 2, 4, 1, 1, 2, 7, 1]

    async def ask() -> list[Inference]:
        ours = batcher(predict)
        return await asyncio.gather(*(ours(images(*[n] * size)) for n, size in enumerate(sizes)))

    answers = asyncio.run(ask())
    assert [values(answer) for answer in answers] == [
        [float(n)] * size for n, size in enumerate(sizes)
    ]


def test_a_full_queue_turns_requests_away_and_says_when_to_come_again() -> None:
    ours = batcher(Recorder(), max_queue=10)
    with ours.admission(8):
        with pytest.raises(Overloaded, match=r"^8 ") as refusal, ours.admission(3):
            pytest.fail("was admitted")
        with ours.admission(2):
            assert ours.admitted == 10
    assert int(refusal.value.headers["retry-after"]) >= 1
    assert ours.admitted == 0


def test_an_idle_service_takes_a_request_of_any_size() -> None:
    with batcher(Recorder(), max_queue=10).admission(11):
        pass


def test_requests_that_would_wait_past_the_deadline_are_turned_away_at_the_door() -> None:
    ours = batcher(Recorder(), deadline_s=1e-9)
    with ours.admission(1):
        asyncio.run(_ignoring_overload(ours))
        ours._learn(0.5)
        with pytest.raises(Overloaded), ours.admission(1):
            pytest.fail("was admitted")


async def _ignoring_overload(ours: Batcher) -> None:
    with pytest.raises(Overloaded):
        await ours(images(1))


def test_requests_that_waited_past_the_deadline_are_not_run() -> None:
    predict = Recorder()
    asyncio.run(_ignoring_overload(batcher(predict, deadline_s=-1)))
    assert predict.runs == []


def test_a_request_that_was_given_up_is_not_run() -> None:
    predict = Recorder()

    async def ask() -> Inference:
        ours = batcher(predict)
        given_up = asyncio.ensure_future(ours(images(1, 2)))
        await asyncio.sleep(0)  # it waits now
        given_up.cancel()
        return await ours(images(3))

    assert values(asyncio.run(ask())) == [3.0]
    assert sum(predict.runs) <= 3


def test_an_error_of_the_model_reaches_everybody_who_waits_and_nobody_after() -> None:
    class Flaky(Recorder):
        def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
            if not self.runs:
                self.runs.append(0)
                raise RuntimeError("the first run fails")
            return super().__call__(images)

    async def ask() -> tuple[tuple[Inference | BaseException, ...], Inference]:
        ours = batcher(Flaky())
        first = await asyncio.gather(ours(images(1)), ours(images(2)), return_exceptions=True)
        return first, await ours(images(3))

    failed, answered = asyncio.run(ask())
    assert all(isinstance(one, RuntimeError) for one in failed)
    assert values(answered) == [3.0]


PROGRAM = """
import os, sys

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "onnxruntime":
            sys.exit(f"told {os.environ.get('ORT_DISABLE_TELEMETRY')}")

sys.meta_path.insert(0, Finder())
import serve.inference.predictor
"""


def told(**variables: str) -> str:
    environment = {
        "PYTHONPATH": os.pathsep.join(os.path.abspath(entry) for entry in sys.path),
        "PATH": os.defpath,
        **variables,
    }
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    return done.stderr.strip()


def test_onnxruntime_is_told_not_to_report_before_it_is_loaded() -> None:
    assert told() == "told 1"


def test_who_wants_it_to_report_can_say_so() -> None:
    assert told(ORT_DISABLE_TELEMETRY="0") == "told 0"
