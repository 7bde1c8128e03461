"""ml/artifact/artifact.py: sealed, loaded, and refused whenever something is not as it was."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from common.files import user_path
from common.model.artifact import ArtifactMetadata, ParityVector
from common.model.signals import SIGNALS
from ml.artifact.artifact import (
    BINS,
    BUNDLED,
    ArtifactError,
    bins_of,
    canonical,
    drift_reference,
    load_artifact,
    measured,
    model_path,
    model_version,
    write_artifact,
)
from tests.common.model.samples import sample_metadata

IMAGES = np.arange(120, dtype=np.uint8).reshape(2, 4, 5, 3)


def model(
    weight: float = 0.01, batch: str | int = "N", kind: int = TensorProto.UINT8
) -> onnx.ModelProto:
    """Two logits from the mean of the pixels."""
    nodes = [
        helper.make_node("Cast", ["images"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["pixels"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weight"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
    ]
    weights = np.repeat([[weight / 60, -weight / 60]], 60, axis=0).astype(np.float32)
    graph = helper.make_graph(
        nodes,
        "mean",
        [helper.make_tensor_value_info("images", kind, [batch, 4, 5, 3])],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, 2])
            for name in ("logits", "probabilities")
        ],
        [numpy_helper.from_array(weights, "weight")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def answers(weight: float = 0.01) -> np.ndarray:
    """What `model` computes, in NumPy."""
    mean = weight * IMAGES.reshape(2, -1).mean(axis=1, dtype=np.float64)
    exp = np.exp(np.stack([mean, -mean], axis=1))
    return np.asarray(exp / exp.sum(axis=1, keepdims=True))


def metadata() -> ArtifactMetadata:
    rows = tuple(tuple(row) for row in answers().tolist())
    return sample_metadata(parity=ParityVector(IMAGES.tobytes(), rows, 1e-4))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_artifact(model(), metadata(), tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


def test_an_artifact_round_trips(path: Path) -> None:
    artifact = load_artifact(path, threads=1)
    assert artifact.metadata == replace(metadata(), version=model_version(model()))
    np.testing.assert_allclose(artifact.predict(IMAGES).probabilities, answers(), atol=1e-6)


def test_writing_again_gives_the_same_bytes(path: Path, tmp_path: Path) -> None:
    write_artifact(model(), metadata(), tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx").read_bytes() == path.read_bytes()


def test_the_version_names_graph_and_weights_alone() -> None:
    commented = model()
    commented.doc_string, commented.producer_version = "hello", "1.2.3"
    commented.graph.node[0].doc_string = "from here"
    commented.graph.node[0].metadata_props.add(key="stack_trace", value="/home/me/train.py:1")
    commented.graph.input[0].metadata_props.add(key="kind", value="USER_INPUT")
    commented.metadata_props.add(key="accuracy", value="0.94")
    assert model_version(commented) == model_version(model())
    assert b"home" not in canonical(commented).SerializeToString()
    assert model_version(model(weight=0.011)) != model_version(model())


def test_nested_graphs_are_cleaned_too() -> None:
    branch = model().graph
    branch.node[0].doc_string = "secret"
    outer = model()
    outer.graph.node.add(op_type="If").attribute.append(helper.make_attribute("then", branch))
    assert b"secret" in outer.SerializeToString()
    assert b"secret" not in canonical(outer).SerializeToString()


def test_changed_weights_are_refused(path: Path) -> None:
    changed = onnx.load(path)
    changed.graph.initializer[0].CopyFrom(model(weight=0.02).graph.initializer[0])
    onnx.save(changed, path)
    with pytest.raises(ArtifactError, match=r"model.onnx .*changed"):
        load_artifact(path)


def test_changed_metrics_are_refused(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b'"accuracy":0.94', b'"accuracy":0.99'))
    with pytest.raises(ArtifactError, match=r"metadata .*changed"):
        load_artifact(path)


@settings(
    deadline=None, max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data())
def test_any_changed_byte_or_cut_is_refused(path: Path, data: st.DataObject) -> None:
    content = bytearray(path.read_bytes())
    position = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        del content[position:]
    else:
        content[position] ^= data.draw(st.integers(1, 255))
    (damaged := path.with_name("damaged.onnx")).write_bytes(content)
    with pytest.raises(ArtifactError):
        load_artifact(damaged)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty or truncated"),
        (b"<html>not found</html>", "not an ONNX model"),
        (model().SerializeToString(), "foreign ONNX model"),
    ],
)
def test_files_that_are_no_artifact_are_refused(
    tmp_path: Path, content: bytes, reason: str
) -> None:
    (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(ArtifactError, match=reason):
        load_artifact(tmp_path / "model.onnx")


def test_a_model_that_answers_its_parity_vector_otherwise_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="parity vector"):
        write_artifact(model(weight=0.02), metadata(), tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


def unusual_models() -> Iterator[tuple[onnx.ModelProto, str]]:
    """Models that run but break the contract's signature."""
    yield model(batch=2), "expected tensor\\(uint8\\)\\['N', 4, 5, 3\\] with any N"
    yield model(kind=TensorProto.FLOAT), "images is tensor\\(float\\)"
    renamed = model()
    renamed.graph.output.pop(0)
    yield renamed, "its signature is \\['images', 'probabilities'\\]"
    broken = model()
    broken.graph.node[2].op_type = "NoSuchOperator"
    yield broken, "onnxruntime cannot load it: .*NoSuchOperator"


@pytest.mark.parametrize(("unusual", "reason"), [*unusual_models()])
def test_a_model_with_another_signature_is_not_written(
    tmp_path: Path, unusual: onnx.ModelProto, reason: str
) -> None:
    with pytest.raises(ArtifactError, match=reason):
        write_artifact(unusual, metadata(), tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


def test_every_bin_of_a_signal_holds_about_as_many_reference_images() -> None:
    random = np.random.default_rng(0)
    images = random.integers(0, random.integers(1, 257, (2300, 1, 1, 1)), (2300, 6, 6, 3))
    answers = random.dirichlet([0.2, 0.2, 0.2], 2300)
    reference = drift_reference(images.astype(np.uint8), answers)
    assert reference.images == 2300
    assert tuple(signal.name for signal in reference.signals) == SIGNALS
    for signal in reference.signals:
        assert len(signal.shares) == BINS
        np.testing.assert_allclose(signal.shares, 1 / BINS, atol=0.01)


def test_a_signal_keeps_the_values_moments() -> None:
    images = np.random.default_rng(1).integers(0, 256, (1500, 4, 4, 3)).astype(np.uint8)
    reference = drift_reference(images, np.full((1500, 2), 0.5))
    by_name = {signal.name: signal for signal in reference.signals}
    means = (images / 255).mean(axis=(1, 2))
    assert by_name["green_mean"].mean == pytest.approx(means[:, 1].mean(), abs=1e-6)
    assert by_name["blue_mean"].std == pytest.approx(means[:, 2].std(), abs=1e-6)


def test_priors_come_from_the_answers() -> None:
    images = np.full((4, 3, 3, 3), 255, np.uint8)
    answers = np.array([[0.99, 0.01], [0.62, 0.38], [0.02, 0.98], [1.0, 0.0]])
    assert drift_reference(images, answers).class_priors == (0.75, 0.25)


def test_values_that_are_all_equal_still_make_two_bins() -> None:
    images = np.full((4, 3, 3, 3), 255, np.uint8)
    reference = drift_reference(images, np.full((4, 2), 0.5))
    for signal in reference.signals:
        assert len(signal.edges) == 1
        assert signal.shares == (0.0, 1.0)


def test_the_share_of_a_bin_is_that_of_the_values_that_fall_into_it() -> None:
    random = np.random.default_rng(2)
    images = random.integers(0, 256, (400, 5, 5, 3)).astype(np.uint8)
    answers = random.dirichlet([1, 1], 400).astype(np.float32)
    signals = measured(images, answers)
    for signal in drift_reference(images, answers).signals:
        bins = bins_of(signal, signals[signal.name])
        shares = np.bincount(bins, minlength=len(signal.shares)) / 400
        np.testing.assert_allclose(shares, signal.shares, atol=1e-6)


def test_a_model_is_a_file_a_run_folder_or_the_bundled_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BUILD_WORKING_DIRECTORY", str(tmp_path))
    (tmp_path / "run").mkdir()
    (tmp_path / "run/model.onnx").touch()
    assert model_path("run") == model_path("run/model.onnx") == tmp_path / "run/model.onnx"
    assert model_path(None) == BUNDLED
    for missing in ("other.onnx", "."):
        with pytest.raises(ArtifactError, match=r"model\.onnx"):
            model_path(missing)


def test_absolute_and_home_paths_stay_what_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BUILD_WORKING_DIRECTORY", "/somewhere")
    monkeypatch.setenv("HOME", "/home/someone")
    assert user_path("/data/a.onnx") == Path("/data/a.onnx")
    assert user_path("~/a.onnx") == Path("/home/someone/a.onnx")
