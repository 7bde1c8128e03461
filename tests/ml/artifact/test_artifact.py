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

from common.model.artifact import ArtifactMetadata, ParityVector
from ml.artifact.artifact import (
    ArtifactError,
    canonical,
    load_artifact,
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
