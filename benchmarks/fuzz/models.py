"""Damaged and foreign model files, loaded in a separate process that may die.

    python -m benchmarks.fuzz.models FIRST END SEED MODEL...

is that process: it creates, loads and reports these files, one per line.
"""

import hashlib
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import NamedTuple

import onnx

from benchmarks.load.servers import ServerFailed
from common.model.artifact import ArtifactError, to_json
from common.model.model_file import METADATA_PROPS, read_model_file, wire_fields
from common.programs import python_environment
from common.terminal import Progress

_HANG_S = 60  # loading takes milliseconds
_MEMORY = 6 * 2**30  # limit of the process's memory
_GIANT = (0, -1, 2**31 - 1, 2**31, 2**40, 2**62, -(2**63))
_PATHS = ("/etc/passwd", "../../../etc/passwd", "/dev/zero", "/proc/self/environ", "weights", "")


class Mutation(NamedTuple):
    """A kind of damage, and whether digests are recomputed afterwards, unlike in an accident."""

    name: str
    make: Callable[[bytes, bytes, Random], bytes]  # of a file, and another one
    is_sealed: bool = False


def mutated(number: int, seed: int, models: Sequence[bytes]) -> tuple[str, bytes]:
    """The kind and the bytes of a damaged file."""
    chance = Random(f"{seed} {number}")
    mutation = MUTATIONS[number % len(MUTATIONS)]
    model, other = chance.sample(models, 2) if len(models) > 1 else (models[0], models[0])
    data = mutation.make(model, other, chance)
    if mutation.is_sealed:
        data = sealed(data, model)
    return mutation.name, data


def sealed(data: bytes, whole: bytes) -> bytes:
    """A model with valid digests of its graph, weights and metadata, as an attacker would write
    them; metadata are those of `whole` if it has none.

    Bytes that are no longer a model at the top level are unchanged.
    """
    try:
        version, props = read_model_file(data)
    except ArtifactError:
        return data
    props = {**(props or read_model_file(whole).metadata_props), "kiln.version": version}
    ours = {key: value for key, value in props.items() if key.startswith("kiln.")}
    ours.pop("kiln.metadata_digest", None)
    props["kiln.metadata_digest"] = hashlib.sha256(to_json(ours).encode()).hexdigest()
    model = onnx.ModelProto()
    for key, value in props.items():
        model.metadata_props.add(key=key, value=value)
    kept = (one.raw for one in wire_fields(memoryview(data)) if one.number != METADATA_PROPS)
    return b"".join([*kept, model.SerializeToString()])


# --- Bytes ---------------------------------------------------------------------------------------


def _bits(data: bytes, __: bytes, chance: Random) -> bytes:
    """Flips a few bits, half of the time in the structure rather than the weights."""
    changed = bytearray(data)
    most = chance.choice((len(data), 4096))
    for _ in range(chance.randint(1, 8)):
        changed[chance.randrange(most)] ^= 1 << chance.randrange(8)
    return bytes(changed)


def _cut(data: bytes, _: bytes, chance: Random) -> bytes:
    return data[: chance.choice((chance.randrange(len(data)), chance.randrange(4096)))]


def _spliced(data: bytes, other: bytes, chance: Random) -> bytes:
    place, start = chance.randrange(len(data)), chance.randrange(len(other))
    length = chance.choice((8, 256, 65536))
    rest = place + chance.choice((0, length))  # inserted or overwritten
    return data[:place] + other[start : start + length] + data[rest:]


def _overwritten(data: bytes, _: bytes, chance: Random) -> bytes:
    place, length = chance.randrange(len(data)), chance.choice((4, 64, 4096))
    return data[:place] + chance.choice((b"\0", b"\xff")) * length + data[place + length :]


def _zeros(data: bytes, _: bytes, chance: Random) -> bytes:
    """Zeros to the end, as a file system leaves unwritten blocks after a power failure."""
    place = chance.randrange(len(data))
    return data[:place] + bytes(len(data) - place)


def _foreign(data: bytes, _: bytes, chance: Random) -> bytes:
    kinds = (b"", b"\0", b"PK\x03\x04" + data[:999], b"{}", data[::-1], data * 2, b"\x80\x04N.")
    return chance.choice(kinds)


# --- Structure -----------------------------------------------------------------------------------


def _changed(change: Callable[[onnx.ModelProto, Random], None]) -> Callable[..., bytes]:
    def make(data: bytes, _: bytes, chance: Random) -> bytes:
        model = onnx.load_from_string(data)
        change(model, chance)
        return bytes(model.SerializeToString())

    return make


def _metadata(model: onnx.ModelProto, chance: Random) -> None:
    prop = chance.choice(model.metadata_props)
    match chance.randrange(4):
        case 0:
            model.metadata_props.remove(prop)
        case 1:
            prop.value = chance.choice(("", "null", "[]", "{}", "1e999", "[[" * 5000, "\0", "-1"))
        case 2:
            prop.key = chance.choice(("kiln.unknown", "other", "", "kiln."))
        case _:
            del model.metadata_props[:]


def _opset(model: onnx.ModelProto, chance: Random) -> None:
    if chance.random() < 0.3:
        model.ir_version = chance.choice((0, 1, 2, 99, 2**40))
    elif chance.random() < 0.3:
        del model.opset_import[:]
    else:
        one = chance.choice(model.opset_import)
        one.version = chance.choice((0, 1, 5, 99, -1, 2**40))
        one.domain = chance.choice((one.domain, "ai.onnx.ml", "com.microsoft", "unknown"))


def _dimensions(model: onnx.ModelProto, chance: Random) -> None:
    graph = model.graph
    if chance.random() < 0.5:
        tensor = chance.choice(graph.initializer)
        if not tensor.dims or chance.random() < 0.3:
            tensor.dims.append(chance.choice(_GIANT))
        else:
            tensor.dims[chance.randrange(len(tensor.dims))] = chance.choice(_GIANT)
    else:
        value = chance.choice([*graph.input, *graph.output]).type.tensor_type
        dims = value.shape.dim
        if chance.random() < 0.3:
            value.elem_type = chance.randrange(30)
        elif chance.random() < 0.3 or not dims:
            dims.add(dim_value=chance.choice(_GIANT))
        else:
            chance.choice(dims).dim_value = chance.choice(_GIANT)


def _attributes(model: onnx.ModelProto, chance: Random) -> None:
    node = chance.choice([one for one in model.graph.node if one.attribute])
    attribute = chance.choice(node.attribute)
    if attribute.ints:
        attribute.ints[chance.randrange(len(attribute.ints))] = chance.choice(_GIANT)
    elif chance.random() < 0.5:
        attribute.i = chance.choice(_GIANT)
    else:
        attribute.type = chance.randrange(15)


def _nodes(model: onnx.ModelProto, chance: Random) -> None:
    graph = model.graph
    node, other = chance.choice(graph.node), chance.choice(graph.node)
    match chance.randrange(6):
        case 0:
            graph.node.remove(node)
        case 1:
            node.op_type = chance.choice(_OPERATORS)
        case 2 if node.input:
            node.input[chance.randrange(len(node.input))] = chance.choice((*other.output, "", "x"))
        case 3 if node.input:
            del node.input[chance.randrange(len(node.input))]
        case 4:
            node.output[0] = other.output[0]
        case _:
            node.domain = chance.choice(("com.microsoft", "unknown", "ai.onnx.ml"))


_OPERATORS = (
    *("Loop", "If", "Scan", "Reshape", "Expand", "Tile", "Gather", "ScatterND", "Resize", "Pad"),
    *("ConstantOfShape", "Conv", "Gemm", "MatMul", "QLinearConv", "DequantizeLinear", "Unknown"),
    *("LSTM", "GRU", "RoiAlign", "NonMaxSuppression", "Einsum", "StringSplit", "ConvTranspose"),
)


def _weights(model: onnx.ModelProto, chance: Random) -> None:
    tensor = chance.choice(model.graph.initializer)
    match chance.randrange(4):
        case 0:
            tensor.raw_data = tensor.raw_data[: len(tensor.raw_data) // 2]
        case 1:
            tensor.raw_data += bytes(chance.choice((1, 4096)))
        case 2:
            tensor.data_type = chance.randrange(30)
        case _:
            tensor.raw_data = b"\xff" * len(tensor.raw_data)


def _external(model: onnx.ModelProto, chance: Random) -> None:
    tensor = chance.choice(model.graph.initializer)
    entries = {"location": chance.choice(_PATHS)}
    if chance.random() < 0.5:
        entries |= {"offset": str(chance.choice(_GIANT)), "length": str(chance.choice(_GIANT))}
    tensor.data_location = onnx.TensorProto.EXTERNAL
    if chance.random() < 0.8:
        tensor.ClearField("raw_data")
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=value)


def _signature(model: onnx.ModelProto, chance: Random) -> None:
    """Other input and output names, and another framework's exports."""
    values = chance.choice((model.graph.input, model.graph.output))
    if chance.random() < 0.5:
        chance.choice(values).name = chance.choice(("x", "", "images", "probabilities"))
    else:
        del values[chance.randrange(len(values))]


_BYTES = (_bits, _cut, _spliced, _overwritten, _zeros)
_STRUCTURE = (
    *(_metadata, _opset, _dimensions, _attributes, _nodes, _weights, _external, _signature),
)


def _called(make: Callable[..., object]) -> str:
    return make.__name__.strip("_").replace("_", " ")


MUTATIONS = (
    *(Mutation(_called(make), make) for make in (*_BYTES, _foreign)),
    *(Mutation(_called(change), _changed(change)) for change in _STRUCTURE),
    *(Mutation(f"{_called(make)}, sealed", make, is_sealed=True) for make in _BYTES),
    *(
        Mutation(f"{_called(change)}, sealed", _changed(change), is_sealed=True)
        for change in _STRUCTURE
    ),
)


# --- Loading -------------------------------------------------------------------------------------

REFUSED, LOADED = "refused", "loaded"  # anything else is a failure


@dataclass
class Damaged:
    """The outcomes of damaged model files."""

    files: int = 0
    outcomes: dict[str, dict[str, int]] = field(default_factory=dict)  # by kind of damage
    failures: list[str] = field(default_factory=list)  # with the file's number

    @property
    def holds(self) -> bool:
        """Whether each was rejected, or predicted like the model."""
        return not self.failures


def load_damaged(models: Sequence[Path], files: int, seed: int, progress: Progress) -> Damaged:
    """Loads `files` damaged files, in processes that are replaced when one dies or hangs."""
    damaged = Damaged()
    while damaged.files < files:
        for name, outcome, said in _outcomes(models, damaged.files, files, seed):
            found = damaged.outcomes.setdefault(name, {})
            found[outcome] = found.get(outcome, 0) + 1
            if outcome not in (REFUSED, LOADED):
                damaged.failures.append(f"{name}, file {damaged.files}: {outcome}: {said}")
            damaged.files += 1
            progress.update(damaged.files, detail=f"{len(damaged.failures)} failures")
    return damaged


def _outcomes(
    models: Sequence[Path], first: int, end: int, seed: int
) -> Iterator[tuple[str, str, str]]:
    """(kind of damage, outcome, message) of each file until the process ends."""
    command = [sys.executable, "-m", "benchmarks.fuzz.models", str(first), str(end), str(seed)]
    with subprocess.Popen(
        [*command, *map(str, models)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=python_environment(),
    ) as process:
        assert process.stdout is not None
        trying = ""
        for line in process.stdout:
            name, tab, said = line.rstrip("\n").partition("\t")
            trying = "" if tab else name
            if tab:
                outcome, _, words = said.partition("\t")
                yield name, outcome, words
    if process.returncode:
        if not trying:
            raise ServerFailed(f"no model was loaded: exit code {process.returncode}")
        code = process.returncode
        yield trying, "died", signal.Signals(-code).name if code < 0 else f"exit code {code}"


def _load(data: bytes) -> tuple[str, str]:
    from serve.inference.predictor import Predictor

    try:
        Predictor(data).check()
    except ArtifactError as exc:
        return REFUSED, str(exc)
    except Exception as exc:
        return "raised", f"{type(exc).__name__}: {exc}"
    return LOADED, ""


def _main(first: int, end: int, seed: int, paths: Sequence[str]) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    models = [Path(path).read_bytes() for path in paths]
    for number in range(first, end):
        print(MUTATIONS[number % len(MUTATIONS)].name, flush=True)
        signal.alarm(_HANG_S)  # kills the process whatever it does
        name, data = mutated(number, seed, models)
        outcome, said = _load(data)
        signal.alarm(0)
        words = " ".join(said.split())[:300]
        print(name, outcome, words, sep="\t", flush=True)


if __name__ == "__main__":
    _main(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])
