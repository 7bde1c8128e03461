"""ml/artifact/quantise.py: a smaller model that answers almost alike, or none."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest

from ml.artifact import quantise
from ml.artifact.artifact import ArtifactError, load_artifact
from ml.artifact.evaluation import Labelled
from ml.artifact.export import ExportReport
from ml.artifact.quantise import AccuracyError, QuantisationReport, quantise_artifact, quantised
from tests.ml.artifact.small_model import Sample, exported, sample


@dataclass(frozen=True)
class Pair:
    """An artifact and its INT8 sibling; labels are what fp32 answers, so INT8 can only lose."""

    data: Sample
    full: ExportReport
    small: QuantisationReport

    @property
    def labels(self) -> np.ndarray:
        return load_artifact(self.full.path).predict(self.data.images).logits.argmax(axis=1)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    folder, data = tmp_path_factory.mktemp("quantise"), sample()
    full = exported()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quantise, "ACCURACY_TOLERANCE", 0.03)  # one image of 120 is 0.8 %
        small = quantise_artifact(
            full.path,
            folder / "model.int8.onnx",
            calibration_images=sample(seed=1).images,
            test=data.test,
        )
    return Pair(data, full, small)


def test_the_int8_artifact_answers_almost_like_the_full_one(pair: Pair) -> None:
    images = sample(seed=2).images
    full = load_artifact(pair.full.path).predict(images).probabilities
    small = load_artifact(pair.small.path).predict(images).probabilities
    assert 0 < np.abs(full - small).mean() < 0.02
    assert np.abs(full - small).max() < 0.2  # of a network with eight channels


def test_convolutions_behind_the_first_hold_eight_bit_weights(pair: Pair) -> None:
    model = onnx.load(pair.small.path)
    onnx.checker.check_model(model, full_check=True)
    kernels = [t for t in model.graph.initializer if len(t.dims) == 4 and t.dims[2] > 1]
    kinds = {tuple(t.dims[1:]): t.data_type for t in kernels}
    assert kinds.pop((3, 2, 2)) == onnx.TensorProto.FLOAT
    assert set(kinds.values()) == {onnx.TensorProto.INT8}


def test_its_metadata_tells_its_own_scores_and_the_same_origin(pair: Pair) -> None:
    full, small = pair.full.metadata, load_artifact(pair.small.path).metadata
    assert (small.quantisation, full.quantisation) == ("int8", "none")
    assert small.version != full.version
    assert small.test_metrics.accuracy == round(pair.small.evaluation.accuracy, 6)
    assert (small.config_digest, small.git_revision) == (full.config_digest, full.git_revision)


def test_quantising_twice_gives_the_same_model(pair: Pair) -> None:
    model, images = onnx.load(pair.full.path), pair.data.images
    assert quantised(model, images) == quantised(model, images)


def test_a_model_that_loses_accuracy_is_not_written(
    pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blind = quantised(onnx.load(pair.full.path), np.zeros_like(pair.data.images))
    monkeypatch.setattr(quantise, "quantised", lambda model, images: blind)
    with pytest.raises(AccuracyError, match=r"0.3%;"):
        quantise_artifact(
            pair.full.path,
            tmp_path / "model.onnx",
            calibration_images=pair.data.images,
            test=Labelled(pair.data.images, pair.labels),
        )
    assert list(tmp_path.iterdir()) == []


def test_an_int8_artifact_is_not_quantised_again(pair: Pair, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="quantised already"):
        quantise_artifact(
            pair.small.path,
            tmp_path / "model.onnx",
            calibration_images=pair.data.images,
            test=pair.data.test,
        )
