"""Compares runtimes on the same models: onnxruntime, which serves, OpenVINO, ncnn and LiteRT.

    bazel run //serve:runtimes -- --model ml/bundled/model.onnx --model ml/bundled/model.int8.onnx
    bazel run //serve:runtimes -- --seconds 5 --json runtimes.json

Each runs interleaved in separate processes, with packages that Kiln does not use. ncnn and LiteRT
need conversion, by pnnx and onnx2tf. Failures of a runtime or converter are shown with their
messages. Exit codes: 0 measured, 2 nothing to measure.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import distributions
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from rich.table import Table

from benchmarks.load.servers import PeersMissing, installed, interruptible
from common.command_line import command_parser
from common.files import user_path, write_whole
from common.model.artifact import ArtifactError, ArtifactMetadata
from common.resources import cpu_name
from common.terminal import Progress, terminal
from serve.inference.model_path import model_path, precision_of, read_model
from serve.settings import Settings

_FOLDER = Path(__file__).with_name("contenders")
_IMAGES = 200
_STARTS = 3
# Calibration data of onnx2tf, which would otherwise download a file of this name and shape.
_TEST_IMAGES = "calibration_image_sample_data_20x128x128x3_float32.npy"

# By runtime: the distributions that it needs beside numpy, and the module to import.
RUNTIMES = {
    "onnxruntime": (("onnxruntime", "flatbuffers", "protobuf", "packaging"), "onnxruntime"),
    "openvino": (("openvino", "openvino-telemetry", "packaging"), "openvino"),
    "ncnn": (("ncnn",), "ncnn"),
    "litert": (("ai-edge-litert", "flatbuffers"), "ai_edge_litert.interpreter"),
}


_ERROR = re.compile(r"[\w.]+(Error|Exception)\b")


class Unfit(Exception):
    """A runtime cannot run a model; the message has its error."""


@dataclass
class Entry:
    """A runtime on a model; None where it has no result."""

    runtime: str
    precision: str
    lone_ms: float | None = None
    batch_images_per_s: float | None = None
    first_answer_s: float | None = None  # of the import, the load and one image
    import_s: float | None = None
    installed_mb: float | None = None
    largest_difference: float | None = None  # in probability, from onnxruntime
    same_class: float | None = None  # share of the images
    reason: str = ""


def main() -> int:
    options = _parser().parse_args()
    settings = Settings.from_environment()
    try:
        paths = [user_path(path) for path in options.model] or [model_path(settings)]
        models = {path: read_model(path) for path in paths}
        packages = installed(_FOLDER / "requirements.txt", "runtimes", "--no-deps")
        converter = installed(_FOLDER / "converter.txt", "converter", "--no-deps")
    except (ArtifactError, PeersMissing) as exc:
        sys.stderr.write(f"kiln: error: {exc}\n")
        return 2
    entries = []
    with (
        tempfile.TemporaryDirectory(prefix="kiln-") as folder,
        Progress("racing", len(models) * len(RUNTIMES)) as progress,
    ):
        for number, (path, metadata) in enumerate(models.items()):
            place = Path(folder, str(number))
            place.mkdir()
            race = Race(path.absolute(), metadata, place, packages, converter, options.seconds)
            for runtime in RUNTIMES:
                progress.update(detail=f"{runtime}, {precision_of(metadata)}")
                entries.append(race.run(runtime))
                progress.advance()
    console = terminal(140)
    console.print(table(entries))
    for entry in entries:
        if entry.reason:
            console.print(f"{entry.runtime}, {entry.precision}: {entry.reason}", markup=False)
    if options.json:
        machine = {"processor": cpu_name(), "cpus": settings.cpus, "load": os.getloadavg()[0]}
        document = {"machine": machine, "results": [asdict(entry) for entry in entries]}
        write_whole(user_path(options.json), json.dumps(document, indent=2).encode() + b"\n")
    return 0


@dataclass
class Race:
    model: Path
    metadata: ArtifactMetadata
    folder: Path
    packages: Path
    converter: Path
    seconds: float

    def run(self, runtime: str) -> Entry:
        entry = Entry(runtime, precision_of(self.metadata))
        distributions_, module = RUNTIMES[runtime]
        entry.installed_mb = size_mb(self.packages, distributions_)
        try:
            entry.import_s = min(self._import_s(module) for _ in range(_STARTS))
            convert = {"ncnn": self._for_ncnn, "litert": self._for_litert}.get(runtime)
            model = convert() if convert else self.model
            np.save(self.folder / "images.npy", images(self.metadata))
            answers = self.folder / f"{runtime}.npy"
            command = [str(_FOLDER / "contender.py"), runtime, str(model)]
            command += [str(self.folder / "images.npy"), str(answers), str(self.seconds)]
            said = self._python(self.packages, *command, str(Settings().cpus))
            for name, value in json.loads(said.splitlines()[-1]).items():
                setattr(entry, name, value)
            self._compare(entry, np.load(answers))
        except Unfit as exc:
            entry.reason = str(exc)
        return entry

    def _compare(self, entry: Entry, answers: NDArray[np.float32]) -> None:
        expected = np.load(self.folder / "onnxruntime.npy")  # the first contender
        answers = answers.reshape(expected.shape)
        entry.largest_difference = float(np.abs(answers - expected).max())
        entry.same_class = float((answers.argmax(1) == expected.argmax(1)).mean())

    def _import_s(self, module: str) -> float:
        program = f"import time as t; a = t.time(); import {module}; print(t.time() - a)"
        return float(self._python(self.packages, "-c", program).splitlines()[-1])

    def _for_ncnn(self) -> Path:
        """pnnx's files of the graph after the cast to float, for which ncnn has no input."""
        inner = self.folder / "inner.onnx"
        height, width = self.metadata.input_size
        write_inner_graph(self.model, inner)
        program = self.packages / "pnnx" / "pnnx"  # next to a module that needs PyTorch
        shape = f"inputshape=[1,3,{height},{width}]f32"
        _call([str(program), str(inner), shape], {"PATH": os.defpath}, self.folder)
        found = self.folder / "inner.ncnn.param"
        if not found.exists():
            raise Unfit("pnnx wrote no model of ncnn")
        return found

    def _for_litert(self) -> Path:
        copy, output = self.folder / "copy.onnx", self.folder / "litert"
        copy.write_bytes(self.model.read_bytes())  # onnx2tf modifies its input
        chance = np.random.default_rng(0)
        np.save(self.folder / _TEST_IMAGES, chance.random((20, 128, 128, 3), np.float32))
        program = "from onnx2tf import convert; convert(%r, output_folder_path=%r)"
        self._python(self.converter, "-c", program % (str(copy), str(output)))
        found = next(output.glob("*_float32.tflite"), None)
        if found is None:
            raise Unfit("onnx2tf wrote no model of LiteRT")
        return found

    def _python(self, packages: Path, *arguments: str) -> str:
        environment = {
            "PATH": f"{packages / 'bin'}:{os.environ.get('PATH', os.defpath)}",
            "PYTHONPATH": str(packages),
            "HOME": str(self.folder),
            "OMP_NUM_THREADS": str(Settings().cpus),
            "OMP_WAIT_POLICY": "PASSIVE",  # spinning threads would measure other load
            "ORT_DISABLE_TELEMETRY": "1",
            "TF_CPP_MIN_LOG_LEVEL": "3",
        }
        return _call([sys.executable, "-s", *arguments], environment, self.folder)


def _call(command: Sequence[str], environment: Mapping[str, str], folder: Path) -> str:
    done = subprocess.run(
        command, env=dict(environment), cwd=folder, capture_output=True, text=True, check=False
    )
    if done.returncode:
        lines = [line.strip() for line in (done.stderr or done.stdout).splitlines()]
        lines = [line for line in lines if line]
        errors = [line for line in lines if _ERROR.match(line)]
        raise Unfit([f"ended with {done.returncode}", *lines, *errors][-1][:300])
    return done.stdout


def images(metadata: ArtifactMetadata) -> NDArray[np.uint8]:
    """The artifact's own images, and smooth ones: (200, H, W, 3)."""
    height, width = metadata.input_size
    own = np.frombuffer(metadata.parity.images, np.uint8).reshape(-1, height, width, 3)
    chance = np.random.default_rng(0)
    coarse = chance.integers(0, 256, (_IMAGES - len(own), 4, 4, 3)).repeat(-(-height // 4), 1)
    smooth = coarse.repeat(-(-width // 4), 2)[:, :height, :width]
    noise = chance.normal(0, 12, smooth.shape)
    return np.concatenate([own, (smooth + noise).clip(0, 255).astype(np.uint8)])


def write_inner_graph(model: Path, target: Path) -> None:
    """The graph from float pixels (N, 3, H, W) in 0..255 on.

    Raises:
        Unfit: it does not start with a transposition and a cast.
    """
    graph = onnx.shape_inference.infer_shapes(onnx.load(model))
    casts = [node.output[0] for node in graph.graph.node if node.op_type == "Cast"]
    if not casts:
        raise Unfit("the graph casts no pixels to float")
    inner = onnx.utils.Extractor(graph).extract_model([casts[0]], ["probabilities"])
    nodes = [part for node in inner.graph.node for part in _without_reduce_max(node)]
    del inner.graph.node[:]
    inner.graph.node.extend(nodes)
    onnx.save(inner, target)


def _without_reduce_max(node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """Replaces ReduceMax over a plane by a layer that ncnn has."""
    if node.op_type != "ReduceMax":
        return [node]
    [output], pooled = node.output, f"{node.output[0]}.pooled"
    return [
        onnx.helper.make_node("GlobalMaxPool", [node.input[0]], [pooled]),
        onnx.helper.make_node("Flatten", [pooled], [output]),
    ]


def size_mb(packages: Path, names: Sequence[str]) -> float:
    wanted = {name.replace("-", "_") for name in names}
    return sum(
        Path(str(file.locate())).stat().st_size / 1e6
        for one in distributions(path=[str(packages)])
        if one.metadata["Name"].lower().replace("-", "_") in wanted
        for file in one.files or ()
        if Path(str(file.locate())).is_file()
    )


def table(entries: Sequence[Entry]) -> Table:
    found = Table(title=f"runtimes on {cpu_name()}")
    columns: dict[str, Callable[[Entry], str]] = {
        "": lambda one: f"{one.runtime}, {one.precision}",
        "one image, ms": lambda one: _number(one.lone_ms, ".2f"),
        "images/s at 100": lambda one: _number(one.batch_images_per_s, ".0f"),
        "import, s": lambda one: _number(one.import_s, ".2f"),
        "first answer, s": lambda one: _number(one.first_answer_s, ".2f"),
        "installed, MB": lambda one: _number(one.installed_mb, ".0f"),
        "largest difference": lambda one: _number(one.largest_difference, ".1e"),
        "same class": lambda one: _number(one.same_class, ".1%"),
    }
    for name in columns:
        found.add_column(name, justify="right" if name else "left")
    for entry in entries:
        found.add_row(*(show(entry) for show in columns.values()))
    return found


def _number(value: float | None, form: str) -> str:
    return "—" if value is None else format(value, form)


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("//serve:runtimes", __doc__)
    add = parser.add_argument
    add("--model", type=Path, action="append", default=[], help="may be repeated")
    add("--seconds", type=float, default=3, help="seconds per figure (default: 3)")
    add("--json", type=Path, help="JSON file for the figures")
    return parser


if __name__ == "__main__":
    sys.exit(interruptible(main))
