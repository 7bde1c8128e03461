"""Load benchmark of the service, side by side with alternatives.

    bazel run //serve:benchmark                             # the built-in model
    bazel run //serve:benchmark -- --peers                  # with FastAPI, LitServe and BentoML
    bazel run //serve:benchmark -- --model runs/…/model.onnx --model runs/…/model.int8.onnx
    bazel run //serve:benchmark -- --telemetry              # the cost of telemetry
    bazel run //serve:benchmark -- --capture                # the cost of capturing a tenth
    bazel run //serve:benchmark -- --json benchmark.json                # and benchmark.png

Everything runs on this machine, one server at a time; a separate process generates the load.
"""

import argparse
import base64
import io
import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.load.client import Job
from benchmarks.load.overhead import (
    Bare,
    Overhead,
    measure_bare,
    measure_capture,
    measure_telemetry,
)
from benchmarks.load.report import Result, benchmark_figure, show
from benchmarks.load.servers import (
    PeersMissing,
    Running,
    ServerCommand,
    ServerFailed,
    ask,
    floor,
    interruptible,
    load,
    peers,
    running,
    service,
)
from common.command_line import command_parser
from common.figures import to_png
from common.files import user_path, write_whole
from common.model.artifact import ArtifactError, ArtifactMetadata
from common.resources import cpu_name
from common.terminal import Progress
from serve.inference.model_path import model_path, read_model
from serve.settings import Settings

_CONCURRENCY = (1, 8, 64)
_STEPS = len(_CONCURRENCY) + 2  # measurements of a server: each of these, half load, batches
_BATCH = 100
_BATCH_CALLERS = 4


def main() -> int:
    """Measures and prints; 2 if there is nothing to measure."""
    options = _options()
    settings = Settings.from_environment()
    try:
        paths = [user_path(path) for path in options.model] or [model_path(settings)]
        models = {path: read_model(path) for path in paths}
        servers = [
            (service(path, options.workers, _name(metadata)), path)
            for path, metadata in models.items()
        ]
        if options.peers:
            others = [*peers(paths[0], options.workers), floor(paths[0], options.workers)]
            servers += [(other, paths[0]) for other in others]
    except (ArtifactError, PeersMissing) as exc:
        sys.stderr.write(f"kiln: error: {exc}\n")
        return 2
    if options.telemetry or options.capture:
        measure = measure_telemetry if options.telemetry else measure_capture
        return _compare(measure, servers[0][0], models[paths[0]], options)
    with Progress("measuring bare onnxruntime") as progress:
        bare = {
            str(path): measure_bare(path, _image(models[path]), settings.cpus) for path in paths
        }
        progress.begin("measuring", _STEPS * len(servers))
        results = [
            _measured(server, models[path], options.seconds, progress) for server, path in servers
        ]
    show(results, bare, settings.cpus)
    if options.json:
        _write(user_path(options.json), results, bare, settings.cpus)
    return 1 if any(result.failure for result in results) else 0


def _compare(
    measure: Callable[[ServerCommand, str, float], Overhead],
    server: ServerCommand,
    metadata: ArtifactMetadata,
    options: argparse.Namespace,
) -> int:
    body = json.dumps({"image": _image(metadata)})
    try:
        overhead = measure(server, body, options.seconds)
    except ServerFailed as exc:
        sys.stderr.write(f"kiln: {exc}\n")
        return 1
    print(overhead)
    if options.json:
        path = user_path(options.json)
        facts = {"throughput": overhead.throughput, "cpu": overhead.cpu}
        facts["memory_mb"] = overhead.memory_mb
        document = {"machine": _machine(Settings().cpus), **facts, **asdict(overhead)}
        write_whole(path, json.dumps(document, indent=2).encode() + b"\n")
        sys.stderr.write(f"kiln: wrote {path}\n")
    return 0


def _name(metadata: ArtifactMetadata) -> str:
    return "Kiln" if metadata.quantisation == "none" else f"Kiln, {metadata.quantisation}"


def _measured(
    server: ServerCommand, metadata: ArtifactMetadata, seconds: float, progress: Progress
) -> Result:
    image = _image(metadata)
    body = json.dumps({"image": image})
    result = Result(server.name, metadata.name, 0.0)
    progress.update(what=f"measuring {server.name}", detail="cold start")
    try:
        with running(server, "/predict", body) as up:
            result.cold_start_s = up.cold_start_s
            _check_answer(up, body, metadata)
            _put_under_load(up, result, body, seconds, progress)
            progress.update(detail="batches")
            if server.name.startswith("Kiln"):
                batch = json.dumps({"images": [image] * _BATCH, "top_k": 1})
                done = load(Job(up.port, "/predict/batch", batch, seconds, _BATCH_CALLERS))
                result.batch_images_per_s = done.throughput * _BATCH
            progress.advance()
            result.memory_mb = up.memory_mb()
    except ServerFailed as exc:
        result.failure = str(exc)
        sys.stderr.write(f"kiln: {exc}\n")
    return result


def _put_under_load(
    server: Running, result: Result, body: str, seconds: float, progress: Progress
) -> None:
    for callers in _CONCURRENCY:
        progress.update(detail=f"{callers} callers")
        job = Job(server.port, "/predict", body, seconds, callers)
        before = server.cpu_s()
        done = result.closed[callers] = load(job)
        result.cpu_us_per_request = (server.cpu_s() - before) / max(1, done.answered) * 1e6
        progress.advance()
    progress.update(detail="half load")
    best = max(done.throughput for done in result.closed.values())
    result.half_load = load(Job(server.port, "/predict", body, seconds, 256, rate=best / 2))
    progress.advance()


def _check_answer(server: Running, body: str, metadata: ArtifactMetadata) -> None:
    """A server with wrong predictions is not measured."""
    found = ask(server.port, "/predict", body)["index"]
    expected = int(np.argmax(metadata.parity.probabilities[0]))
    if found != expected:
        raise ServerFailed(f"answered class {found}, expected {expected}")


def _image(metadata: ArtifactMetadata) -> str:
    """The artifact's first image, as a PNG in base64."""
    height, width = metadata.input_size
    pixels = np.frombuffer(metadata.parity.images, np.uint8).reshape(-1, height, width, 3)[0]
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def _write(path: Path, results: list[Result], bare: dict[str, Bare], cpus: int) -> None:
    document = {
        "machine": _machine(cpus),
        "bare": {model: asdict(measured) for model, measured in bare.items()},
        "results": [asdict(result) for result in results],
    }
    write_whole(path, json.dumps(document, indent=2).encode() + b"\n")
    figure = path.with_suffix(".png")
    write_whole(figure, to_png(benchmark_figure(results, bare)))
    sys.stderr.write(f"kiln: wrote {path} and {figure}\n")


def _machine(cpus: int) -> dict[str, Any]:
    return {"cpus": cpus, "processor": cpu_name(), "load": os.getloadavg()[0]}


def _options() -> argparse.Namespace:
    parser = command_parser("//serve:benchmark", __doc__)
    add = parser.add_argument
    add("--model", type=Path, action="append", default=[], help="may be repeated")
    add(
        "--peers",
        action="store_true",
        help="include FastAPI, LitServe, BentoML, and the model in a loop without a service",
    )
    add(
        "--telemetry",
        action="store_true",
        help="only compare with and without telemetry, interleaved",
    )
    add("--capture", action="store_true", help="the same for capture")
    add("--seconds", type=float, default=5, help="seconds per load (default: 5)")
    add("--workers", type=int, default=Settings().cpus, help="processes per server")
    add("--json", type=Path, help="JSON file for the figures; a plot is written beside it")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(interruptible(main))
