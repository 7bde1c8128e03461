"""benchmarks/fuzz on model files: damage of every kind is refused, and what dies is noticed."""

import json
from collections import Counter
from pathlib import Path

import pytest

from benchmarks.fuzz.models import MUTATIONS, load_damaged, mutated, sealed
from benchmarks.load.servers import ServerFailed
from common.model.artifact import ArtifactError, read_artifact
from common.terminal import Progress
from serve.inference.predictor import Predictor
from tests.benchmarks.programs import run
from tests.serve.serving import MODEL

MODELS = (Path("ml/bundled/model.onnx"), Path("ml/bundled/model.int8.onnx"))


def test_a_sealed_model_is_one_that_is_served() -> None:
    whole = MODEL.read_bytes()
    again = sealed(whole, whole)
    assert read_artifact(again) == read_artifact(whole)
    Predictor(again).check()


def test_damage_without_a_seal_is_refused_before_it_is_opened() -> None:
    models = [path.read_bytes() for path in MODELS]
    kinds = Counter(mutated(number, 0, models)[0] for number in range(len(MUTATIONS)))
    assert kinds.keys() == {mutation.name for mutation in MUTATIONS}
    for number in (one for one, kind in enumerate(MUTATIONS) if not kind.is_sealed):
        name, data = mutated(number, 0, models)
        with pytest.raises(ArtifactError):
            read_artifact(data)
        assert mutated(number, 0, models) == (name, data)


def test_each_damaged_model_is_refused_or_answers_as_it_did(tmp_path: Path) -> None:
    target = tmp_path / "models.json"
    done = run("benchmarks.fuzz.main", "models", "--cases", "270", "--json", str(target))
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(target.read_text())
    assert found["holds"]
    assert found["files"] == 270
    assert {sum(outcomes.values()) for outcomes in found["outcomes"].values()} == {10}


def test_a_process_that_cannot_begin_is_said(tmp_path: Path) -> None:
    missing = tmp_path / "model.onnx"
    with pytest.raises(ServerFailed, match="exit code 1"):
        load_damaged([missing], 3, 0, Progress("loading"))
