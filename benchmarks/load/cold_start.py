"""Cold starts on Lambda compared with bare onnxruntime: bazel run //serve:cold_start

Every contender is a separate process on one CPU, timed from exec to its first response:

  bare                 Python, `import onnxruntime`, a session of the same model, one run
  function             the image's entry point under a Runtime API, one /predict; metrics in logs
  function, exporting  the same with OpenTelemetry's SDK and a collector
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from rich.table import Table

from benchmarks.load.servers import interruptible
from common.command_line import command_parser
from common.programs import python_environment, serving
from common.terminal import Progress, terminal
from serve.aws_lambda.lifecycle import one_pixel_event
from serve.image import boot
from serve.inference.model_path import model_path, read_model
from serve.settings import Settings

_PATIENCE_S = 120
_BARE = """
import sys
import onnxruntime as ort
options = ort.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
session = ort.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
import numpy
shape = [1, *session.get_inputs()[0].shape[1:]]
session.run(None, {session.get_inputs()[0].name: numpy.zeros(shape, "uint8")})
print("answered", flush=True)
sys.stdin.read()
"""


class StartFailed(Exception):
    """A contender exited or did not respond in time; the message has its last output."""


@dataclass(frozen=True)
class Start:
    """Seconds from exec to the first response: wall-clock and CPU time."""

    wall_s: float
    cpu_s: float


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    path = model_path(Settings.from_environment()).absolute()
    read_model(path)
    with tempfile.TemporaryDirectory() as folder:
        starts = measure(path, options.rounds, options.cpu, Path(folder))
    terminal().print(_table(starts))
    if options.json:
        found = {name: [asdict(one) for one in some] for name, some in starts.items()}
        options.json.write_text(json.dumps(found, indent=2) + "\n")
    return 0


def measure(model: Path, rounds: int, cpu: int, folder: Path) -> dict[str, list[Start]]:
    """Interleaved starts of each contender; a first one, which writes bytecode, is discarded.

    Raises:
        StartFailed: names the contender.
    """
    # Bytecode as in the image, even if packages were installed without.
    common = {"ORT_DISABLE_TELEMETRY": "1", "PYTHONPYCACHEPREFIX": str(folder)}
    environment = python_environment() | common
    environment |= {"KILN_MODEL": str(model), "PYTHONDONTWRITEBYTECODE": ""}
    environment = {k: v for k, v in environment.items() if not k.startswith("OTEL_")}
    measures: dict[str, Callable[[], Start]] = {
        "bare": partial(_bare, model, environment, cpu),
        "function": partial(_function, environment, cpu, exporting=False),
        "function, exporting": partial(_function, environment, cpu, exporting=True),
    }
    starts: dict[str, list[Start]] = {name: [] for name in measures}
    with Progress("measuring starts", (rounds + 1) * len(measures)) as progress:
        for _ in range(rounds + 1):
            for name, measure_start in measures.items():
                progress.update(detail=name)
                starts[name].append(measure_start())
                progress.advance()
    return {name: some[1:] for name, some in starts.items()}


def _bare(model: Path, environment: Mapping[str, str], cpu: int) -> Start:
    command = [sys.executable, "-c", _BARE, str(model)]
    begin = time.perf_counter()
    with _started(command, environment, cpu, stdout=subprocess.PIPE) as process:
        assert process.stdout
        if process.stdout.readline() != b"answered\n":
            raise StartFailed("bare onnxruntime did not answer")
        return Start(time.perf_counter() - begin, _cpu_s(process.pid))


def _function(environment: Mapping[str, str], cpu: int, exporting: bool) -> Start:
    with _lambda() as server:
        address = f"127.0.0.1:{server.server_port}"
        variables = {**environment, "AWS_LAMBDA_RUNTIME_API": address}
        if exporting:
            variables["OTEL_EXPORTER_OTLP_ENDPOINT"] = f"http://{address}"
        command = [sys.executable, boot.__file__]
        begin = time.perf_counter()
        with _started(command, variables, cpu, stdout=subprocess.DEVNULL) as process:
            while not server.answered.wait(0.2):
                if process.poll() is not None or time.perf_counter() - begin > _PATIENCE_S:
                    raise StartFailed(f"the function ended or hangs ({process.poll()})")
            if server.status != 200:
                raise StartFailed(f"the function did not answer: {server.said[-2000:]}")
            return Start(server.answered_at - begin, _cpu_s(process.pid))


@contextmanager
def _started(
    command: Sequence[str], environment: Mapping[str, str], cpu: int, stdout: int
) -> Iterator["subprocess.Popen[bytes]"]:
    # The child inherits the affinity; the caller's threads keep theirs.
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {cpu})
    try:
        process = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=stdout)
    finally:
        os.sched_setaffinity(0, before)
    with process:
        try:
            yield process
        finally:
            process.kill()


def _cpu_s(pid: int) -> float:
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


# ---- A Runtime API with one event, and a collector ----------------------------------------------


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answered, self.asked = threading.Event(), False
        self.answered_at, self.status, self.said = 0.0, 0, ""

    def handle_error(self, request: object, client_address: object) -> None:
        """Broken connections of killed processes are expected."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, *arguments: object) -> None:
        """Suppresses the access log."""

    def do_GET(self) -> None:
        if self.server.asked:
            time.sleep(_PATIENCE_S)  # there is no second event
        self.server.asked = True
        headers = {
            "Lambda-Runtime-Aws-Request-Id": "one",
            "Lambda-Runtime-Deadline-Ms": str(int((time.time() + _PATIENCE_S) * 1000)),
            "Lambda-Runtime-Invoked-Function-Arn": "arn:aws:lambda:eu-central-1:1:function:kiln",
            "Lambda-Runtime-Trace-Id": "Root=1-5bef4de7-ad49b0e87f6ef6c87fc2e700;Sampled=0",
        }
        self._send(json.dumps(one_pixel_event()).encode(), headers)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if "/runtime/" in self.path:
            self.server.answered_at = time.perf_counter()
            self.server.said = body.decode()
            if self.path.endswith("/response"):
                self.server.status = json.loads(body)["statusCode"]
            self.server.answered.set()
        self._send(b"", {})

    def _send(self, body: bytes, headers: Mapping[str, str]) -> None:
        self.send_response(200)
        for name, value in {
            **headers,
            "Content-Type": "application/json",
            "Content-Length": str(len(body)),
        }.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def _lambda() -> Iterator[_Server]:
    server = _Server()
    with serving(server):
        yield server


# ---- For people ---------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("//serve:cold_start", __doc__)
    add = parser.add_argument
    add("--rounds", type=int, default=7, help="starts per contender (default: 7)")
    add("--cpu", type=int, default=max(os.sched_getaffinity(0)), help="processor")
    add("--json", type=Path, help="file for all starts")
    return parser


def _table(starts: Mapping[str, Sequence[Start]]) -> Table:
    table = Table(title="Time from exec to the first response, one CPU")
    for name in ("", "median, s", "best, s", "times bare", "CPU, s", "CPU, times bare"):
        table.add_column(name, justify="right" if name else "left")
    bare_wall, bare_cpu = _medians(starts["bare"])
    for name, some in starts.items():
        wall, cpu = _medians(some)
        best = min(one.wall_s for one in some)
        table.add_row(
            *(name, f"{wall:.3f}", f"{best:.3f}", f"{wall / bare_wall:.2f}"),
            *(f"{cpu:.3f}", f"{cpu / bare_cpu:.2f}"),
        )
    return table


def _medians(some: Sequence[Start]) -> tuple[float, float]:
    return statistics.median(one.wall_s for one in some), statistics.median(
        one.cpu_s for one in some
    )


if __name__ == "__main__":
    sys.exit(interruptible(main))
