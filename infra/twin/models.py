"""The versions that the twin releases: images that differ only in their model.

The models are edits of a good artifact: one harmless, three harmful. Each is resealed as the
exporter does it. The service loads it, its parity vector passes and `/ready` succeeds: only traffic
and golden images reveal the fault.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper
from PIL import Image

from common.golden import GoldenImage, read_golden_set, write_golden_set
from common.model.artifact import (
    CHANNELS,
    INPUT,
    PROBABILITIES,
    ArtifactMetadata,
    read_artifact,
)
from common.model.model_file import read_model_file
from infra.twin.image.container import with_model

_PER_IMAGE = [1, 2, 3]  # axes of (N, H, W, 3)
_Constants = dict[str, NDArray[Any]]


def rounded(artifact: bytes) -> bytes:
    """Weights rounded to 16 bits (bfloat16), as for a smaller file: a few predictions per thousand
    change.
    """
    model, metadata = onnx.load_from_string(artifact), read_artifact(artifact)
    for weight in model.graph.initializer:
        if weight.data_type == TensorProto.FLOAT:
            bits = numpy_helper.to_array(weight).astype(np.float32).view(np.uint32)
            near = (bits + 0x8000) & np.uint32(0xFFFF0000)
            weight.CopyFrom(numpy_helper.from_array(near.view(np.float32), weight.name))
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (answers,) = session.run([PROBABILITIES], {INPUT: parity_images(metadata)})
    recorded = tuple(tuple(map(float, row)) for row in answers)
    return _sealed(
        model, replace(metadata, parity=replace(metadata.parity, probabilities=recorded))
    )


def mislabelled(artifact: bytes) -> bytes:
    """Class names shifted by one, as after an edit of the class list."""
    metadata = read_artifact(artifact)
    classes = metadata.classes[1:] + metadata.classes[:1]
    return _sealed(onnx.load_from_string(artifact), replace(metadata, classes=classes))


def slow(artifact: bytes, products: int = 24, size: int = 256) -> bytes:
    """Multiplies large matrices and discards the result: the same predictions, later.

    Args:
        products: number of products; each is 2 size³ operations, some 0.5 ms on one core at 256.
    """
    model = onnx.load_from_string(artifact)
    matrix = np.full((size, size), 1 / size, np.float32)
    constants: _Constants = {"slow_matrix": matrix}
    nodes = [
        helper.make_node("Cast", [INPUT], ["slow_cast"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["slow_cast"], ["slow_mean"], keepdims=0),
        helper.make_node("Mul", ["slow_matrix", "slow_mean"], ["slow_0"]),
    ]
    for number in range(products):
        operands = [f"slow_{number}", "slow_matrix"]
        nodes.append(helper.make_node("MatMul", operands, [f"slow_{number + 1}"]))
    nodes.append(helper.make_node("ReduceMean", [f"slow_{products}"], ["slow_end"], keepdims=0))
    _add_nothing(model, nodes, "slow_end", constants)
    return _sealed(model, read_artifact(artifact))


def crashing(artifact: bytes) -> bytes:
    """Crashes on bright images; the artifact's parity images are darker.

    It divides the smallest 32-bit integer by -1, whose result overflows: the CPU raises SIGFPE.
    Division by zero would not do, since onnxruntime reports it as an error.
    """
    model, metadata = onnx.load_from_string(artifact), read_artifact(artifact)
    limit = crash_brightness(metadata)
    constants: _Constants = {
        "crash_limit": np.array(2 * limit - 1, np.int32),
        "crash_two": np.array(2, np.int32),
        "crash_lowest": np.array(np.iinfo(np.int32).min, np.int32),
        "crash_least": np.array(-1, np.int32),
        "crash_axes": np.array(_PER_IMAGE, np.int64),
    }
    nodes = [
        helper.make_node("Cast", [INPUT], ["crash_cast"], to=TensorProto.INT32),
        helper.make_node("ReduceMean", ["crash_cast", "crash_axes"], ["crash_mean"], keepdims=0),
        # An odd number, never 0: positive below the limit, negative at it and above.
        helper.make_node("Mul", ["crash_mean", "crash_two"], ["crash_double"]),
        helper.make_node("Sub", ["crash_limit", "crash_double"], ["crash_room"]),
        helper.make_node("Max", ["crash_room", "crash_least"], ["crash_divisor"]),
        helper.make_node("Div", ["crash_lowest", "crash_divisor"], ["crash_quotient"]),
        helper.make_node("Cast", ["crash_quotient"], ["crash_float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["crash_float"], ["crash_end"], keepdims=0),
    ]
    _add_nothing(model, nodes, "crash_end", constants)
    return _sealed(model, metadata)


def crash_brightness(metadata: ArtifactMetadata) -> int:
    """Mean of an image's bytes from which `crashing` crashes."""
    return int(brightness(parity_images(metadata)).max()) + 1


def parity_images(metadata: ArtifactMetadata) -> NDArray[np.uint8]:
    """(N, H, W, 3), the artifact's parity images."""
    shape = (-1, *metadata.input_size, len(CHANNELS))
    return np.frombuffer(metadata.parity.images, np.uint8).reshape(shape)


def brightness(images: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Mean brightness of (N, H, W, 3) images, rounded down as in the graph."""
    means: NDArray[np.float64] = images.astype(np.int64).mean((1, 2, 3))
    return means.astype(np.int64)


def _add_nothing(
    model: onnx.ModelProto,
    nodes: list[NodeProto],
    scalar: str,
    constants: _Constants,
) -> None:
    """Adds zero times the scalar to the probabilities, so that the graph must compute it."""
    graph = model.graph
    for node in graph.node:
        for outputs in (node.output, node.input):
            for place, name in enumerate(outputs):
                if name == PROBABILITIES:
                    outputs[place] = "probabilities_before"
    constants["nothing"] = np.array(0, np.float32)
    graph.initializer.extend(
        numpy_helper.from_array(value, name) for name, value in constants.items()
    )
    graph.node.extend(
        [
            *nodes,
            helper.make_node("Mul", [scalar, "nothing"], ["nothing_times_it"]),
            helper.make_node("Add", ["probabilities_before", "nothing_times_it"], [PROBABILITIES]),
        ]
    )
    onnx.checker.check_model(model)


def _sealed(model: onnx.ModelProto, metadata: ArtifactMetadata) -> bytes:
    """The model with its metadata, and the version of its current graph."""
    del model.metadata_props[:]
    version = read_model_file(model.SerializeToString(deterministic=True)).version
    props = replace(metadata, version=version).to_metadata_props()
    helper.set_model_props(model, props)
    sealed: bytes = model.SerializeToString(deterministic=True)
    return sealed


_FAULTS: Mapping[str, Callable[[bytes], bytes]] = {
    "crashing": crashing,
    "mislabelled": mislabelled,
    "slow": slow,
}


@dataclass(frozen=True)
class Candidate:
    """An image layout to release; `fails` is the share of callers' images on which it crashes."""

    name: str
    layout: Path
    good: bool
    fails: float = 0.0


def candidates(
    image: Path, first: Path, good: Path, bad: tuple[str, ...], bright: float, folder: Path
) -> list[Candidate]:
    """The first release, the good one, and the bad ones, which are edits of the good one's model.

    Args:
        bright: share of the callers' images on which the crashing model crashes.
    """
    artifact = good.read_bytes()
    made = [
        _candidate("first release", image, first, folder / "first", good=True),
        _candidate("good release", image, good, folder / "good", good=True),
    ]
    for name in bad:
        model = folder / f"{name}.onnx"
        model.write_bytes(_FAULTS[name](artifact))
        fails = bright if name == "crashing" else 0.0
        made.append(_candidate(name, image, model, folder / name, good=False, fails=fails))
    return made


def _candidate(
    name: str, image: Path, model: Path, target: Path, good: bool, fails: float = 0.0
) -> Candidate:
    target.mkdir(parents=True)
    with_model(image, model, target)
    return Candidate(name, target, good, fails)


def write_dark_golden_set(callers: Path, artifact: bytes, target: Path) -> float:
    """The callers' images without those on which the crashing model crashes; returns the share of
    these.

    So that Lambda's counters find it and not golden images, as with an unforeseen fault.
    """
    images = read_golden_set(callers)
    limit = crash_brightness(read_artifact(artifact))
    dark = [image for image in images.images if _brightness(image) < limit]
    write_golden_set(target, f"{images.name}, mean brightness below {limit}", dark)
    return 1 - len(dark) / len(images.images)


def _brightness(image: GoldenImage) -> int:
    with Image.open(BytesIO(image.data)) as opened:
        pixels = np.asarray(opened.convert("RGB"))
    return int(brightness(pixels[None])[0])
