"""The overhead of telemetry or capture: services with and without it, measured in turns.

Both run all the time, but only one is loaded at a time, so that other load on the machine affects
both. The collector is real, and uses its share of the machine as in production.
"""

import base64
import importlib.util
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.load.client import Job
from benchmarks.load.servers import Running, ServerCommand, ServerFailed, load, running
from common.captures import Captures
from common.images import Codec
from common.model.artifact import INPUT, PROBABILITIES
from common.objects import FolderStore
from common.programs import free_port
from common.terminal import Progress
from serve.inference.predictor import ort

_SECONDS = 2.0
_BATCH = 100


@dataclass(frozen=True)
class Bare:
    """Milliseconds of the median call, images per second."""

    decode_ms: float
    run_ms: float  # one image, one thread
    batch_images_per_s: float  # a hundred images, one thread per CPU


def measure_bare(path: Path, image: str, cpus: int) -> Bare:
    """Decodes `image`, base64 of a file, and runs the model at `path`, in this process."""
    data = base64.b64decode(image)
    single = _session(path, 1)
    size = single.get_inputs()[0].shape[1:3]
    codec = Codec((size[0], size[1]), max_pixels=2**20)
    pixels = codec.decode(data)[np.newaxis]
    many = np.repeat(pixels, _BATCH, axis=0)
    every = _session(path, cpus)
    return Bare(
        decode_ms=_median_ms(lambda: codec.decode(base64.b64decode(image))),
        run_ms=_median_ms(lambda: single.run([PROBABILITIES], {INPUT: pixels})),
        batch_images_per_s=_BATCH / _median_ms(lambda: every.run(None, {INPUT: many})) * 1e3,
    )


def _session(path: Path, threads: int) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _median_ms(call: Callable[[], Any]) -> float:
    call()
    seconds = []
    end = time.perf_counter() + _SECONDS
    while time.perf_counter() < end:
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds)) * 1e3


_TURNS = 6
_CALLERS = 64


@dataclass(frozen=True)
class Side:
    """One of the two services: requests per second in each turn, CPU time per request, and the
    memory of all its processes afterwards.
    """

    throughputs: list[float] = field(default_factory=list)
    cpu_us: list[float] = field(default_factory=list)
    memory_mb: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Overhead:
    """Both services, turn by turn; `kept` of the `answered` requests were captured."""

    what: str
    off: Side
    on: Side
    turns: int
    answered: int = 0
    kept: int = 0

    @property
    def throughput(self) -> float:
        """Throughput with it relative to without: the median over turns."""
        return _median_ratio(self.on.throughputs, self.off.throughputs)

    @property
    def cpu(self) -> float:
        """CPU time per request with it, relative to without."""
        return _median_ratio(self.on.cpu_us, self.off.cpu_us)

    @property
    def memory_mb(self) -> float:
        """Additional memory of all processes: the largest over turns."""
        pairs = zip(self.on.memory_mb, self.off.memory_mb, strict=True)
        return max(more - less for more, less in pairs)

    def __str__(self) -> str:
        captured = f"; {self.kept} of {self.answered} answers kept" if self.answered else ""
        return (
            f"{self.what}: {self.throughput:.3f} times the throughput without, {self.cpu:.3f} "
            f"times the CPU time of a request (medians of {self.turns} turns, {_CALLERS} "
            f"callers), at most {self.memory_mb:.1f} MB more in all processes{captured}"
        )


def measure_telemetry(server: ServerCommand, body: str, seconds: float) -> Overhead:
    """Alternately loads the service with and without telemetry.

    Args:
        seconds: duration of each turn.

    Raises:
        ServerFailed: a service or the collector did not start.
    """
    with _collector(free_port()) as endpoint:
        exporting = server.exporting(
            OTEL_EXPORTER_OTLP_ENDPOINT=endpoint, OTEL_METRIC_EXPORT_INTERVAL="1000"
        )
        return _by_turns("telemetry", server, exporting, body, seconds, _TURNS)


def measure_capture(
    server: ServerCommand, body: str, seconds: float, turns: int = _TURNS
) -> Overhead:
    """Alternately loads the service with and without capturing a tenth of its predictions to a
    folder.

    Raises:
        ServerFailed: a service did not start.
    """
    with tempfile.TemporaryDirectory() as folder:
        capturing = server.exporting(**_CAPTURE, KILN_CAPTURE=folder)
        overhead = _by_turns("capture", server, capturing, body, seconds, turns)
        # The rest is written at shutdown.
        kept = sum(1 for _ in Captures(FolderStore(Path(folder))).rows())
    return replace(overhead, kept=kept)


# The margin of the single image must not matter; batches are written in each turn.
_CAPTURE = {"KILN_CAPTURE_SHARE": "0.1", "KILN_CAPTURE_UNSURE": "0.1", "KILN_CAPTURE_AGE_S": "2"}


def _by_turns(
    what: str, server: ServerCommand, other: ServerCommand, body: str, seconds: float, turns: int
) -> Overhead:
    off, on, answered = Side(), Side(), 1  # `running` sends one request
    with ExitStack() as stack:
        progress = stack.enter_context(Progress(f"measuring without and with {what}", 2 * turns))
        servers = [stack.enter_context(running(one, "/predict", body)) for one in (server, other)]
        pairs = [*zip((off, on), servers, strict=True)]
        for turn in range(turns):
            for side, up in pairs if turn % 2 else reversed(pairs):
                done = _take_turn(side, up, body, seconds)
                answered += done if side is on else 0
                progress.advance()
    return Overhead(what, off, on, turns, answered if what == "capture" else 0)


def _take_turn(side: Side, server: Running, body: str, seconds: float) -> int:
    job = Job(server.port, "/predict", body, seconds, _CALLERS)
    before = server.cpu_s()
    done = load(job)
    side.throughputs.append(done.throughput)
    side.cpu_us.append((server.cpu_s() - before) / max(1, done.answered) * 1e6)
    side.memory_mb.append(server.memory_mb())
    return done.answered


@contextmanager
def _collector(port: int) -> Iterator[str]:
    """A collector that discards everything; returns its endpoint."""
    spec = importlib.util.find_spec("rotel")
    if spec is None or spec.origin is None:
        raise ServerFailed("the collector is missing: expected the package rotel")
    address = f"127.0.0.1:{port}"
    command = [str(Path(spec.origin).with_name("rotel-agent")), "start"]
    command += [f"--otlp-http-endpoint={address}", "--otlp-grpc-endpoint=127.0.0.1:0"]
    command += ["--exporter=blackhole"]
    process = subprocess.Popen(
        command,
        env={"PATH": os.defpath},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield f"http://{address}"
        if process.poll() is not None:
            raise ServerFailed(f"the collector ended with {process.returncode}")
    finally:
        process.terminate()
        process.wait()


def _median_ratio(numerators: list[float], denominators: list[float]) -> float:
    pairs = zip(numerators, denominators, strict=True)
    return statistics.median(numerator / max(1e-9, other) for numerator, other in pairs)
