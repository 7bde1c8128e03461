"""benchmarks/load: the load is what it says, and the program measures a real service."""

import asyncio
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from benchmarks.load.client import Job, Load, measure
from benchmarks.load.main import Result, benchmark_figure, ratios
from benchmarks.load.overhead import Bare, Overhead, Side, measure_capture
from benchmarks.load.servers import FLOOR, ask, family, floor, running, service
from common.figures import to_png
from ml.artifact.artifact import load_artifact
from tests.benchmarks.programs import progress, run
from tests.helpers.waiting import wait_until
from tests.serve.serving import MODEL, base64_of, image_file, pixels

BODY = json.dumps({"image": base64_of(image_file(pixels()))})
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"


class Slow(threading.Thread):
    """A server that takes 20 ms for each answer of a connection, and answers others meanwhile."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.port, self.asked = 0, 0
        self._up, self._loop = threading.Event(), asyncio.new_event_loop()
        self.start()
        self._up.wait(60)

    def run(self) -> None:
        server = self._loop.run_until_complete(self._serve())
        self._up.set()
        self._loop.run_forever()
        server.close()
        self._loop.run_until_complete(asyncio.sleep(0.1))
        self._loop.close()

    async def _serve(self) -> asyncio.Server:
        server = await asyncio.start_server(self._answer, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        return server

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(65536):
            self.asked += 1
            await asyncio.sleep(0.02)
            writer.write(ANSWER if self.asked % 10 else ANSWER.replace(b"200", b"503"))
        writer.close()

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self.join(60)


@pytest.fixture(scope="module")
def slow() -> Iterator[Slow]:
    server = Slow()
    yield server
    server.stop()


def job(slow: Slow, **changes: float) -> Job:
    values = {"seconds": 0.5, "callers": 4, "rate": 0.0, "warmup_s": 0.1} | changes
    return Job(slow.port, "/", "{}", values["seconds"], int(values["callers"]), values["rate"], 0.1)


def test_closed_loop_callers_wait_for_their_answers(slow: Slow) -> None:
    done = measure(job(slow))
    assert 4 <= done.requests <= 4 * 0.5 / 0.02 + 4
    assert 0 < done.throughput <= 4 / 0.02
    assert 20 <= done.p50_ms <= done.p95_ms <= done.p99_ms <= done.max_ms
    assert set(done.statuses) == {"200", "503"}
    assert sum(done.statuses.values()) == done.requests


def test_requests_that_outlast_the_measurement_are_measured(slow: Slow) -> None:
    done = measure(Job(slow.port, "/", "{}", seconds=0.001, callers=4, warmup_s=0.001))
    assert done.requests == 4  # the second one of each caller; the first began before the warm-up
    assert done.answered == 8
    assert 0 < done.throughput <= 4 / 0.02
    done = measure(Job(slow.port, "/", "{}", seconds=0.001, callers=1, rate=1000, warmup_s=0.0))
    assert done.requests == done.answered
    assert sum(done.statuses.values()) == done.requests


def test_open_loop_requests_are_charged_for_their_time_in_the_queue(slow: Slow) -> None:
    # One connection can carry 50 a second; at 200 a second most of the time is spent waiting.
    done = measure(job(slow, callers=1, rate=200.0))
    assert done.max_ms > 100


def test_a_family_is_a_process_and_its_children() -> None:
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'input()'])"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE) as parent:
        while len(family(parent.pid)) < 2:
            assert parent.poll() is None
        assert parent.pid in family(parent.pid)
        assert os.getpid() not in family(parent.pid)
        parent.communicate(b"\n")


def test_ratios_compare_with_the_best_peer_and_the_bare_machine() -> None:
    def result(name: str, throughput: float) -> Result:
        load = Load(100, throughput, 2.0, 3.0, 4.0, 5.0)
        return Result(name, "m", 1.0, {1: load, 64: load}, load, 900.0 if name == "Kiln" else None)

    lines = ratios(
        [result("Kiln", 1200), result("FastAPI", 600), result(FLOOR, 1500), result("BentoML", 300)],
        {"m": Bare(0.5, 1.5, 1000.0)},
    )
    for line, numbers in zip(
        lines, (("1.00", "0.80"), ("2.00",), ("1.00",), ("0.90",), ("2.0",)), strict=True
    ):
        assert all(number in line for number in numbers), line


def test_the_least_that_a_service_does_is_the_right_answer() -> None:
    expected = int(load_artifact(MODEL).predict(pixels()[np.newaxis]).probabilities.argmax())
    with running(floor(MODEL, 2), "/predict", BODY) as server:
        assert ask(server.port, "/predict", BODY) == {"index": expected}
        assert len(family(server.process)) == 2


def test_the_picture_shows_what_could_be_measured() -> None:
    load = Load(100, 800.0, 2.0, 3.0, 4.0, 5.0)
    good = Result("Kiln", "m", 1.0, {1: load, 64: load}, load, 900.0, 500.0, 180.0)
    bad = Result("FastAPI", "m", 0.0, failure="it did not start")
    figure = benchmark_figure([good, bad], {"m": Bare(0.5, 1.5, 1000.0)})
    labels = [tick.get_text() for axes in figure.axes for tick in axes.get_yticklabels()]
    assert "Kiln" in labels
    assert "FastAPI" not in labels
    assert to_png(benchmark_figure([bad], {})).startswith(b"\x89PNG")


def test_the_program_measures_the_service_and_writes_json(tmp_path: Path) -> None:
    path = tmp_path / "benchmark.json"
    arguments = ["--model", str(MODEL), "--seconds", "0.3", "--workers", "1", "--json", str(path)]
    done = run("benchmarks.load.main", *arguments)
    assert done.returncode == 0, done.stderr
    assert progress(done.stderr, "measuring bare onnxruntime")
    assert len(progress(done.stderr, "measuring Kiln")) >= 4
    assert "/predict/batch" in done.stdout
    (result,) = json.loads(path.read_text())["results"]
    assert set(result["closed"]) == {"1", "8", "64"}
    for load in result["closed"].values():
        assert set(load["statuses"]) == {"200"}
    assert result["memory_mb"] > 20
    assert result["batch_images_per_s"] > 0
    assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def measures(program: int) -> bool:
    """Whether its load runs, and so its server."""
    for pid in family(program):
        with suppress(OSError):  # it has just ended
            if b"benchmarks.load.client" in Path(f"/proc/{pid}/cmdline").read_bytes():
                return True
    return False


def test_what_ends_the_program_ends_its_server(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "benchmarks.load.main", "--model", str(MODEL), "--seconds", "60"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        wait_until(lambda: measures(process.pid), "the server and its load")
        others = set(family(process.pid)) - {process.pid}
        process.terminate()
        assert process.stderr
        assert process.stderr.read().endswith("kiln: interrupted\n")
    assert process.returncode == 130
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in others), "their end")


def test_a_model_that_is_not_there_is_said_in_a_line() -> None:
    done = run("benchmarks.load.main", "--model", "/no/such/model.onnx")
    assert done.returncode == 2
    assert done.stderr.splitlines()[0].startswith("kiln: error: ")
    assert "/no/such/model.onnx" in done.stderr


def test_the_cost_of_telemetry_is_the_median_of_the_turns() -> None:
    off = Side([100.0, 200.0, 400.0], [400.0, 500.0, 800.0], [150.0, 151.0, 152.0])
    # The second turn was disturbed.
    on = Side([98.0, 100.0, 396.0], [408.0, 1000.0, 816.0], [155.0, 163.0, 160.0])
    overhead = Overhead("telemetry", off, on, 3)
    assert (overhead.throughput, overhead.cpu, overhead.memory_mb) == (0.98, 1.02, 12.0)
    assert re.findall(r"\d\.\d{3}", str(overhead)) == ["0.980", "1.020"]


def test_the_cost_of_capture_is_measured_on_the_tenth_that_is_kept() -> None:
    server = service(MODEL, workers=1, KILN_DEADLINE_MS="60000")
    overhead = measure_capture(server, BODY, seconds=0.3, turns=2)
    assert overhead.throughput > 0
    assert overhead.cpu > 0
    expected = overhead.answered / 10
    assert abs(overhead.kept - expected) < 5 * expected**0.5 + 1
