"""Plays a day's worth of events against the stack in a few minutes."""

from __future__ import annotations

import base64
import io
import json
import math
import os
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import ProxyHandler, Request, build_opener

import numpy as np
from numpy.typing import NDArray
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from PIL import Image
from rich.console import Console

from infra.observability.catalogue import load
from infra.observability.stack.local import Ports, local_stack
from infra.observability.stack.programs import Program, StackError, free_port, running

# <runfiles>/_main, or the workspace.
_ROOT = Path(__file__).absolute().parents[3]
_RECORD = 3073  # bytes: a label and 32x32x3, planar
_ROLLOUT = ((0.30, 0.05), (0.38, 0.25), (0.46, 0.5), (0.54, 1.0))  # share of the time, of traffic
_BURST, _DRIFT = (0.62, 0.64), 0.72  # shares of the time

_direct = build_opener(ProxyHandler({}))


def demonstration(folder: Path, length_s: float, console: Console) -> Iterator[tuple[str, float]]:
    """Runs for so long, then yields Prometheus' address and when it began, while all still runs.

    Raises:
        StackError: a part did not start.
    """
    with ExitStack() as ends:
        stack = ends.enter_context(local_stack(folder, {}, Ports(0, 0, 0), interval_s=2))
        models = [_ROOT / "ml/bundled" / name for name in ("model.onnx", "model.int8.onnx")]
        urls = [ends.enter_context(_service(folder, model, stack.otlp)) for model in models]
        start_s = time.time()
        progress = _Progress(start_s, length_s)
        ends.enter_context(_release(stack.otlp, progress))
        ends.enter_context(_traffic(urls, progress))
        while progress() < 1:
            console.print(f"[dim]{progress():.0%} of {length_s / 60:g} minutes ...[/]")
            time.sleep(min(30.0, length_s / 10))
        yield stack.prometheus, start_s


class _Progress:
    def __init__(self, start_s: float, length_s: float) -> None:
        self._start_s, self._length_s = start_s, length_s

    def __call__(self) -> float:
        """Share of the time that is over."""
        return (time.time() - self._start_s) / self._length_s

    @property
    def weight(self) -> float:
        """The candidate's share of the traffic now."""
        return next((share for since, share in reversed(_ROLLOUT) if self() >= since), 0.0)


@contextmanager
def _service(folder: Path, model: Path, otlp: str) -> Iterator[str]:
    port = free_port()
    if not (program := _ROOT / "serve" / "api").is_file():
        raise StackError("the service is missing beside this program: start this by Bazel")
    variables = {
        "KILN_PORT": str(port),
        "KILN_WORKERS": "1",
        "KILN_MODEL": str(model),
        "OTEL_EXPORTER_OTLP_ENDPOINT": otlp,
        "OTEL_METRIC_EXPORT_INTERVAL": "2000",
        "PATH": os.environ["PATH"],
        "NO_PROXY": "*",
    }
    url = f"http://127.0.0.1:{port}"
    name = f"service-{model.stem}"
    with running([Program(name, [str(program)], f"{url}/ready", variables)], folder / "logs"):
        yield url


@contextmanager
def _release(otlp: str, progress: _Progress) -> Iterator[None]:
    """What the release manager would send about the candidate."""
    exporter = OTLPMetricExporter(f"{otlp}/v1/metrics")
    reader = PeriodicExportingMetricReader(exporter, export_interval_millis=2000)
    provider = MeterProvider([reader])
    meter = provider.get_meter("release")
    names = ("step", "candidate_weight", "verdict")
    units = {metric.name: metric.unit for metric in load().metrics}
    step, weight, verdict = (
        meter.create_gauge(name, units[name]) for name in (f"kiln.release.{one}" for one in names)
    )
    golden = meter.create_gauge("kiln.golden.accuracy", units["kiln.golden.accuracy"])

    def tell() -> None:
        reached = sum(progress() >= since for since, _ in _ROLLOUT)
        step.set(reached % len(_ROLLOUT))
        weight.set(progress.weight)
        verdict.set(int(reached == len(_ROLLOUT)))
        golden.set(0.9401, {"faas.version": "7"})  # as measured: ml/bundled/MODEL_CARD.md
        if reached:
            golden.set(0.9398, {"faas.version": "8"})

    with _repeated([tell], pause_s=1.0):
        yield
    provider.shutdown()


@contextmanager
def _traffic(urls: Sequence[str], progress: _Progress) -> Iterator[None]:
    images, chance = _images(), random.Random(0)
    noise = np.random.default_rng(0)

    def ask() -> None:
        part = progress()
        pixels = images[chance.randrange(len(images))]
        if part > _DRIFT and chance.random() < 0.5:
            grain = noise.normal(0, 40, pixels.shape)
            pixels = np.clip(pixels + grain, 0, 255).astype(np.uint8)
        is_candidate = chance.random() < progress.weight
        body = {"image": _png(pixels)} if chance.random() > 0.02 else {"image": "?"}
        _post(f"{urls[is_candidate]}/predict", body)
        if chance.random() < 0.05:
            batch = [_png(images[chance.randrange(len(images))]) for _ in range(7)] + ["?"]
            _post(f"{urls[is_candidate]}/predict/batch", {"images": batch})
        time.sleep(0.02 * (1.3 + math.sin(part * 12)))

    def burst() -> None:
        """More at once than a process lets in, now and then."""
        if _BURST[0] < progress() < _BURST[1]:
            batch = [_png(images[chance.randrange(len(images))]) for _ in range(100)]
            _post(f"{urls[1]}/predict/batch", {"images": batch})
            time.sleep(0.5)
        else:
            time.sleep(0.2)

    with _repeated([ask, *[burst] * 4]):
        yield


@contextmanager
def _repeated(actions: Sequence[Callable[[], None]], pause_s: float = 0.0) -> Iterator[None]:
    """Each in a thread, again and again until the block ends."""
    done = threading.Event()

    def repeat(action: Callable[[], None]) -> None:
        while not done.is_set():
            action()
            done.wait(pause_s)

    threads = [threading.Thread(target=repeat, args=(action,)) for action in actions]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        done.set()
        for thread in threads:
            thread.join()


def _images(count: int = 2000) -> NDArray[np.uint8]:
    """(N, 32, 32, 3) of the CIFAR-10 test images."""
    found = [*_ROOT.parent.glob("*cifar10*/test.bin"), *_ROOT.glob("ml/data/test.bin")]
    if folder := os.environ.get("KILN_CIFAR10"):
        found.append(Path(folder, "test.bin"))
    if not found:
        raise StackError("test.bin is missing: KILN_CIFAR10=<folder of train.bin and test.bin>")
    with found[0].open("rb") as file:
        records = np.frombuffer(file.read(_RECORD * count), np.uint8).reshape(-1, _RECORD)
    return records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)


def _png(pixels: NDArray[np.uint8]) -> str:
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def _post(url: str, body: object) -> None:
    request = Request(url, json.dumps(body).encode(), {"content-type": "application/json"})
    try:
        with _direct.open(request, timeout=60) as answer:
            answer.read()
    except HTTPError as problem:
        problem.read()
