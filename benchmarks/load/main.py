"""Benchmarks the service under load, side by side with the alternatives.

    bazel run //serve:benchmark                             # the built-in model
    bazel run //serve:benchmark -- --peers                  # beside FastAPI, LitServe and BentoML
    bazel run //serve:benchmark -- --model runs/…/model.onnx --model runs/…/model.int8.onnx
    bazel run //serve:benchmark -- --telemetry              # what telemetry costs
    bazel run //serve:benchmark -- --json benchmark.json                # and benchmark.png

All runs on this machine, one server at a time; the load comes from a process beside it.
"""

import argparse
import base64
import io
import json
import os
import platform
import socket
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.load.client import Job
from benchmarks.load.overhead import Bare, measure_bare, measure_overhead
from benchmarks.load.report import Result, benchmark_figure, show
from benchmarks.load.servers import (
    Candidate,
    PeersMissing,
    Running,
    ServerFailed,
    ask,
    interruptible,
    load,
    peers,
    python_environment,
    running,
)
from common.figures import to_png
from common.files import user_path, write_whole
from common.model.artifact import ArtifactError, ArtifactMetadata
from serve.inference.model_path import model_path, read_model
from serve.settings import Settings

_CONCURRENCY = (1, 8, 64)
_BATCH = 100
_BATCH_CALLERS = 4


def main() -> int:
    """Measures and prints; 2 where there is nothing to measure."""
    options = _options()
    settings = Settings.from_environment()
    try:
        paths = [user_path(path) for path in options.model] or [model_path(settings)]
        models = {path: read_model(path) for path in paths}
        candidates = [_ours(path, metadata, options.workers) for path, metadata in models.items()]
        if options.peers:
            candidates += [
                (candidate, port, paths[0])
                for candidate, port in peers(paths[0], options.workers, free_port)
            ]
    except (ArtifactError, PeersMissing) as exc:
        sys.stderr.write(f"kiln: error: {exc}\n")
        return 2
    if options.telemetry:
        return _compare_telemetry(candidates[0], models, options)
    bare = {str(path): measure_bare(path, _image(models[path]), settings.cpus) for path in paths}
    results = []
    for candidate, port, path in candidates:
        sys.stderr.write(f"kiln: measuring {candidate.name}\n")
        results.append(_measured(candidate, port, path, models[path], options.seconds))
    show(results, bare, settings.cpus)
    if options.json:
        _write(user_path(options.json), results, bare, settings.cpus)
    return 1 if any(result.failure for result in results) else 0


def _compare_telemetry(
    ours: tuple[Candidate, int, Path],
    models: dict[Path, ArtifactMetadata],
    options: argparse.Namespace,
) -> int:
    candidate, port, path = ours
    body = json.dumps({"image": _image(models[path])})
    try:
        ports = (port, free_port(), free_port())
        overhead = measure_overhead(candidate, ports, body, options.seconds)
    except ServerFailed as exc:
        sys.stderr.write(f"kiln: {exc}\n")
        return 1
    print(overhead)
    if options.json:
        path = user_path(options.json)
        write_whole(path, json.dumps(asdict(overhead), indent=2).encode() + b"\n")
        sys.stderr.write(f"kiln: wrote {path}\n")
    return 0


def free_port() -> int:
    """A free TCP port on loopback."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _ours(path: Path, metadata: ArtifactMetadata, workers: int) -> tuple[Candidate, int, Path]:
    port = free_port()
    environment = python_environment(
        KILN_MODEL=str(path.absolute()), KILN_PORT=str(port), KILN_WORKERS=str(workers)
    )
    name = "Kiln" if metadata.quantisation == "none" else f"Kiln, {metadata.quantisation}"
    return Candidate(name, [sys.executable, "-m", "serve.server.server"], environment), port, path


def _measured(
    candidate: Candidate, port: int, path: Path, metadata: ArtifactMetadata, seconds: float
) -> Result:
    image = _image(metadata)
    body = json.dumps({"image": image})
    result = Result(candidate.name, metadata.name, 0.0)
    try:
        with running(candidate, port, "/predict", body) as server:
            result.cold_start_s = server.cold_start_s
            _check_answer(server, body, metadata)
            _put_under_load(server, result, body, seconds)
            if candidate.name.startswith("Kiln"):
                batch = json.dumps({"images": [image] * _BATCH, "top_k": 1})
                done = load(Job(port, "/predict/batch", batch, seconds, _BATCH_CALLERS))
                result.batch_images_per_s = done.throughput * _BATCH
            result.memory_mb = server.memory_mb()
    except ServerFailed as exc:
        result.failure = str(exc)
        sys.stderr.write(f"kiln: {exc}\n")
    return result


def _put_under_load(server: Running, result: Result, body: str, seconds: float) -> None:
    for callers in _CONCURRENCY:
        job = Job(server.port, "/predict", body, seconds, callers)
        before = server.cpu_s()
        done = result.closed[callers] = load(job)
        result.cpu_us_per_request = (server.cpu_s() - before) / max(1, done.answered) * 1e6
    best = max(done.throughput for done in result.closed.values())
    result.half_load = load(Job(server.port, "/predict", body, seconds, 256, rate=best / 2))


def _check_answer(server: Running, body: str, metadata: ArtifactMetadata) -> None:
    """A server that answers wrongly is no candidate."""
    found = ask(server.port, "/predict", body)["index"]
    expected = int(np.argmax(metadata.parity.probabilities[0]))
    if found != expected:
        raise ServerFailed(f"answered class {found}, expected {expected}")


def _image(metadata: ArtifactMetadata) -> str:
    """The first image that the artifact carries, as a PNG in base64."""
    height, width = metadata.input_size
    pixels = np.frombuffer(metadata.parity.images, np.uint8).reshape(-1, height, width, 3)[0]
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def _write(path: Path, results: list[Result], bare: dict[str, Bare], cpus: int) -> None:
    document = {
        "machine": {"cpus": cpus, "processor": platform.processor(), "load": os.getloadavg()[0]},
        "bare": {model: asdict(measured) for model, measured in bare.items()},
        "results": [asdict(result) for result in results],
    }
    write_whole(path, json.dumps(document, indent=2).encode() + b"\n")
    picture = path.with_suffix(".png")
    write_whole(picture, to_png(benchmark_figure(results, bare)))
    sys.stderr.write(f"kiln: wrote {path} and {picture}\n")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="bazel run //serve:benchmark --",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", type=Path, action="append", default=[], help="may be repeated")
    parser.add_argument("--peers", action="store_true", help="FastAPI, LitServe and BentoML too")
    parser.add_argument(
        "--telemetry", action="store_true", help="only: with against without, by turns"
    )
    parser.add_argument("--seconds", type=float, default=5, help="of each load (default: 5)")
    parser.add_argument(
        "--workers", type=int, default=Settings().cpus, help="processes of a server"
    )
    parser.add_argument(
        "--json", type=Path, help="where to write the figures; a .png goes beside it"
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(interruptible(main))
