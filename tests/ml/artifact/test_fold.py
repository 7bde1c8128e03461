"""ml/artifact/simplify.py: the same answers from a shorter graph, or the graph as it was."""

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from ml.artifact.artifact import new_session, predict
from ml.artifact.export import to_onnx
from ml.artifact.quantise import quantised
from ml.artifact.simplify import fold_pooled_norms, simplify
from ml.training.networks import ResNet

MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)


def chain(scales: list[float], *, bias: bool = False, branch: bool = False) -> onnx.ModelProto:
    """Conv, MaxPool, BatchNormalization, Relu over three channels of 4 x 4."""
    random = np.random.default_rng(0)
    channels = len(scales)
    weights = {
        "kernel": random.normal(size=(channels, 3, 3, 3)),
        "bias": random.normal(size=channels),
        "scale": np.array(scales),
        "shift": random.normal(size=channels),
        "mean": random.normal(size=channels),
        "variance": random.uniform(0.5, 2, channels),
    }
    conv = ["x", "kernel", *(["bias"] if bias else [])]
    norm = ["pooled", "scale", "shift", "mean", "variance"]
    nodes = [
        helper.make_node("Conv", conv, ["wide"], kernel_shape=[3, 3], pads=[1] * 4),
        helper.make_node("MaxPool", ["wide"], ["pooled"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("BatchNormalization", norm, ["normed"], epsilon=1e-3),
        helper.make_node("Relu", ["normed"], ["y"]),
    ]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", channels, 2, 2])]
    if branch:
        outputs.append(
            helper.make_tensor_value_info("pooled", TensorProto.FLOAT, ["N", channels, 2, 2])
        )
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 4, 4])],
        outputs,
        [numpy_helper.from_array(w.astype(np.float32), n) for n, w in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def answers(model: onnx.ModelProto) -> np.ndarray:
    x = np.random.default_rng(1).normal(size=(5, 3, 4, 4)).astype(np.float32)
    return np.asarray(new_session(model.SerializeToString()).run(["y"], {"x": x})[0])


def operators(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


@settings(max_examples=25)
@given(st.lists(st.floats(0, 3, width=32), min_size=1, max_size=4), st.booleans())
def test_the_short_chain_answers_like_the_long_one(scales: list[float], bias: bool) -> None:
    model = chain(scales, bias=bias)
    short, folded = fold_pooled_norms(model)
    onnx.checker.check_model(short, full_check=True)
    assert folded == 1
    assert operators(short) == ["Conv", "Relu", "MaxPool"]
    assert len(short.graph.initializer) == 2
    np.testing.assert_allclose(answers(short), answers(model), atol=1e-4)


def test_a_negative_scale_would_turn_the_maximum_around() -> None:
    model = chain([1.0, -0.5])
    assert fold_pooled_norms(model) == (model, 0)


def test_what_somebody_else_reads_stays() -> None:
    model = chain([1.0], branch=True)
    assert fold_pooled_norms(model) == (model, 0)


def test_the_given_model_is_left_as_it_was() -> None:
    model = chain([1.0])
    before = model.SerializeToString(deterministic=True)
    fold_pooled_norms(model)
    assert model.SerializeToString(deterministic=True) == before


@pytest.fixture(scope="module")
def network() -> onnx.ModelProto:
    """Our own network with statistics as after training."""
    torch.manual_seed(0)
    net = ResNet(10, widths=(8, 8, 16), depths=(3, 2, 2))
    images = torch.randn(64, 3, 32, 32)
    net.initialise_from(images)
    with torch.no_grad():
        net.train()(images)
    return simplify(to_onnx(net.eval(), (32, 32), MEAN, STD)).model


def test_every_group_of_our_network_is_folded(network: onnx.ModelProto) -> None:
    short, folded = fold_pooled_norms(network)
    assert folded == 3
    assert "BatchNormalization" not in operators(short)
    images = np.random.default_rng(0).integers(0, 256, (7, 32, 32, 3)).astype(np.uint8)
    expected = predict(new_session(network.SerializeToString()), images).probabilities
    found = predict(new_session(short.SerializeToString()), images).probabilities
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_in_int8_every_sum_and_pool_stands_between_eight_bit_tensors(
    network: onnx.ModelProto,
) -> None:
    images = np.random.default_rng(0).integers(0, 256, (32, 32, 32, 3)).astype(np.uint8)
    small = quantised(network, images)
    producer = {name: node for node in small.graph.node for name in node.output}
    readers = [(name, node) for node in small.graph.node for name in node.input]
    behind = [node for node in small.graph.node if node.op_type in ("Conv", "MaxPool")][1:]
    behind += [
        node
        for node in small.graph.node
        if node.op_type == "Add" and all(name in producer for name in node.input)
    ]
    assert len(behind) == 7 + 3 + 1  # convolutions, pools, the residual sum
    for node in behind:
        signals = [name for name in node.input if name in producer]
        assert {producer[name].op_type for name in signals} == {"DequantizeLinear"}
        after = {reader.op_type for name, reader in readers if name in node.output}
        assert after <= {"QuantizeLinear"}, (node.op_type, after)
