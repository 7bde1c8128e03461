"""serve/inference/predictor.py: only a verified artifact answers, and as it answered when it was
exported."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from common.model.artifact import ArtifactError
from serve.inference.predictor import Predictor
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
    with pytest.raises(ArtifactError, match="away from the recorded ones"):
        forgetful.check()


def test_a_damaged_artifact_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(MODEL.read_bytes()[:-100])
    with pytest.raises(ArtifactError, match=rf"cannot serve {path}: .*truncated"):
        Predictor.load(path)


def test_a_missing_artifact_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"cannot read the model .*none[.]onnx: No such file"):
        Predictor.load(tmp_path / "none.onnx")
