"""Simplifies an exported graph: onnxsim in a subprocess, because it may crash or hang (onnxsim#136,
#117), and batch normalisation folded through a max-pool into the preceding convolution.

Training pools first, so that there is less to normalise. In inference, normalisation is one scale
and one shift per channel; if no scale is negative, the order does not matter::

    relu(scale * max(x) + shift) = max(relu(scale * x + shift))

The convolution absorbs both, which leaves Conv, Relu, MaxPool: one node less in fp32, and in INT8
no float operation between the three.
"""

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from common.programs import python_environment


class Simplified(NamedTuple):
    """The simplified model, or the original and the reason why it was kept."""

    model: onnx.ModelProto
    succeeded: bool
    note: str


def simplify(
    model: onnx.ModelProto, timeout_s: float = 120, command: Sequence[str] = ("-m", __name__)
) -> Simplified:
    """Simplifies a model; on any failure it returns the original and a note.

    Args:
        command: Python arguments for the subprocess, followed by input and output file.
    """
    with tempfile.TemporaryDirectory(prefix="kiln-simplify-") as folder:
        before, after = Path(folder, "before.onnx"), Path(folder, "after.onnx")
        onnx.save(model, before)
        try:
            problem = _run([sys.executable, *command, str(before), str(after)], timeout_s)
            if not problem:
                return _simplified(model, onnx.load(after))
        except Exception as exc:  # a missing, truncated or invalid file
            problem = f"left no readable model ({type(exc).__name__}: {exc})"
    return Simplified(model, False, f"kept unsimplified: the simplifier {problem}")


def _simplified(before: onnx.ModelProto, after: onnx.ModelProto) -> Simplified:
    nodes = f"{len(before.graph.node)} -> {len(after.graph.node)} nodes"
    return Simplified(after, True, f"simplified: {nodes}")


def _run(command: Sequence[str], timeout_s: float) -> str:
    """Runs the subprocess; returns what went wrong, or ""."""
    try:
        child = subprocess.run(
            command, env=python_environment(), capture_output=True, text=True, timeout=timeout_s
        )
    except subprocess.TimeoutExpired:
        return f"took longer than {timeout_s:g} s"
    if child.returncode < 0:
        return f"crashed with signal {-child.returncode}"
    if child.returncode > 0:
        reason = (child.stderr.strip().splitlines() or ["no message"])[-1]
        return f"failed with exit code {child.returncode}: {reason}"
    return ""


def _main(before: str, after: str) -> None:
    for name in ("torch", "sympy"):  # onnxsim imports them, for seconds, in vain
        sys.modules[name] = None  # type: ignore[assignment]
    import onnxsim

    model = onnx.load(before)
    shape = [d.dim_value or 2 for d in model.graph.input[0].type.tensor_type.shape.dim]
    simple, same = onnxsim.simplify(
        model, check_n=2, test_input_shapes={model.graph.input[0].name: shape}
    )
    if not same:
        sys.exit("its own check found other outputs")
    onnx.save(simple, after)


_CHAIN = ("Conv", "MaxPool", "BatchNormalization", "Relu")


def fold_pooled_norms(model: onnx.ModelProto) -> tuple[onnx.ModelProto, int]:
    """A copy in which chains of Conv, MaxPool, BatchNormalization and Relu become Conv, Relu,
    MaxPool.

    Chains with a negative scale or with branches are left unchanged.

    Returns:
        The copy, and the number of folded chains.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = _Graph(copy.graph)
    folded = sum(graph.fold(chain) for chain in graph.chains())
    if folded:
        graph.drop_unused_weights()
    return copy, folded


class _Graph:
    def __init__(self, graph: onnx.GraphProto) -> None:
        self.graph = graph
        self.weights = {weight.name: weight for weight in graph.initializer}

    def chains(self) -> list[list[onnx.NodeProto]]:
        """Every chain in which each node is the only consumer of the previous one."""
        found = []
        for first in self.graph.node:
            chain = [first]
            while (
                len(chain) < len(_CHAIN)
                and chain[-1].op_type == _CHAIN[len(chain) - 1]
                and (reader := self._only_reader(chain[-1]))
            ):
                chain.append(reader)
            if tuple(node.op_type for node in chain) == _CHAIN:
                found.append(chain)
        return found

    def fold(self, chain: list[onnx.NodeProto]) -> bool:
        conv, pool, norm, relu = chain
        if not all(name in self.weights for name in (*conv.input[1:], *norm.input[1:])):
            return False
        scale, shift, mean, variance = (self._values(name) for name in norm.input[1:])
        epsilon = next((a.f for a in norm.attribute if a.name == "epsilon"), 1e-5)
        gain = scale / np.sqrt(variance + epsilon)
        if not (np.isfinite(gain).all() and (gain >= 0).all()):
            return False
        bias = self._values(conv.input[2]) if len(conv.input) > 2 else np.zeros_like(gain)
        kernel = self._values(conv.input[1]) * gain.reshape(-1, 1, 1, 1)
        self._set_weights(conv, kernel, (bias - mean) * gain + shift)
        self._rewire(conv, pool, norm, relu)
        return True

    def drop_unused_weights(self) -> None:
        read = {name for node in self.graph.node for name in node.input}
        for weight in [w for w in self.graph.initializer if w.name not in read]:
            self.graph.initializer.remove(weight)

    def _only_reader(self, node: onnx.NodeProto) -> onnx.NodeProto | None:
        output = node.output[0]
        readers = [other for other in self.graph.node if output in other.input]
        is_result = any(result.name == output for result in self.graph.output)
        return readers[0] if len(readers) == 1 and not is_result else None

    def _values(self, name: str) -> NDArray[np.float64]:
        return np.asarray(numpy_helper.to_array(self.weights[name]), dtype=np.float64)

    def _set_weights(
        self, conv: onnx.NodeProto, kernel: NDArray[np.float64], bias: NDArray[np.float64]
    ) -> None:
        stem = conv.input[1]
        del conv.input[1:]
        for name, values in ((f"{stem}.folded", kernel), (f"{stem}.folded_bias", bias)):
            self.graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), name))
            conv.input.append(name)

    def _rewire(
        self, conv: onnx.NodeProto, pool: onnx.NodeProto, norm: onnx.NodeProto, relu: onnx.NodeProto
    ) -> None:
        """Reconnects as Conv, Relu, MaxPool, in this order in the file; the output keeps its
        name.
        """
        result = relu.output[0]
        moved = onnx.NodeProto()
        moved.CopyFrom(relu)
        moved.input[0], moved.output[0] = conv.output[0], f"{result}.unpooled"
        pool.input[0], pool.output[0] = moved.output[0], result
        self.graph.node.remove(norm)
        self.graph.node.remove(relu)
        self.graph.node.insert(list(self.graph.node).index(pool), moved)


if __name__ == "__main__":
    _main(*sys.argv[1:])
