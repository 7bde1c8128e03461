"""Capture during an outage of its store: a service under light load, while S3 is down for minutes.

    bazel run //benchmarks/soak:outage                         # an outage of ten minutes
    bazel run //benchmarks/soak:outage -- --away 60 --rate 40 --output outage.json

The service captures all predictions to moto's S3 on loopback, which stops listening and later
starts again with the same objects. Exit code 1: a request failed or its prediction differs, a
prediction is neither stored nor counted as dropped, a row is stored twice, memory exceeds its
bound, or nothing was stored after the outage.
"""

import argparse
import gzip
import http.client
import json
import logging
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import boto3
import numpy as np
from moto.server import ThreadedMotoServer
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from rich.table import Table

from benchmarks.load.servers import ServerFailed, interruptible, running, service
from benchmarks.soak.main import Check, checks_table
from common.captures import Capture, Captures
from common.command_line import command_parser, count
from common.files import user_path, write_whole
from common.model.artifact import ArtifactError
from common.programs import in_threads, serving
from common.terminal import Progress, terminal
from serve.capture.recorder import png
from serve.capture.s3 import Bucket
from serve.inference.model_path import model_path, read_model
from serve.settings import Settings

REGION, BUCKET, KEY = "eu-central-1", "captures", "testing"
_AGE_S, _EXPORT_MS = 5, 1000
_MOST_MB = 20.0  # additional memory of all processes during and after the outage
_IMAGES, _TIMEOUT_S = 100, 30.0
_LOOK_S = 1.0


@dataclass
class Phase:
    """A phase of the load.

    Attributes:
        kept, dropped: the service's counts of captured predictions from its start to the phase's
            end.
        most_mb: peak memory of all processes.
    """

    name: str
    seconds: float = 0.0
    answers: int = 0
    failed: int = 0
    kept: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    most_mb: float = 0.0


@dataclass
class Found:
    """Results of all phases: `rows` and `twice` count the store at the end, `late` what was
    captured after the store returned.
    """

    phases: list[Phase]
    asked: int
    failed: int
    kept: int
    dropped: dict[str, int]
    rows: int
    twice: int
    late: int


def main() -> int:
    """Runs, prints, writes; 0: passed, 1: failed, 2: could not start."""
    options = _options()
    try:
        path = user_path(options.model) if options.model else model_path(Settings())
        size = read_model(path).input_size
        found = outage(path, size, options)
    except (ArtifactError, ServerFailed) as exc:
        sys.stderr.write(f"kiln: error: {exc}\n")
        return 2
    checks = judge(found)
    _show(found, checks)
    holds = all(check.holds for check in checks)
    if options.output:
        document = {"holds": holds, "checks": [asdict(c) for c in checks], **asdict(found)}
        write_whole(user_path(options.output), json.dumps(document, indent=2).encode() + b"\n")
    return 0 if holds else 1


def outage(path: Path, size: tuple[int, int], options: argparse.Namespace) -> Found:
    """Measures the service before, during and after the outage."""
    store, counters = Store(), Counters()
    with store.there(), counters.collecting() as collector:
        server = service(
            path,
            1,
            **store.environment,
            KILN_CAPTURE=f"s3://{BUCKET}",
            KILN_CAPTURE_SHARE="1",
            KILN_CAPTURE_UNSURE="1",
            KILN_CAPTURE_AGE_S=str(_AGE_S),
            KILN_LOG_LEVEL="error",
            OTEL_EXPORTER_OTLP_ENDPOINT=collector,
            OTEL_METRIC_EXPORT_INTERVAL=str(_EXPORT_MS),
            OTEL_TRACES_EXPORTER="none",
            OTEL_LOGS_EXPORTER="none",
        )
        total = options.before + options.away + options.after
        with running(server, "/ready", None) as up, Progress("soaking", round(total)) as progress:
            callers = Callers(up.port, pictures(size), options.rate, options.callers)
            phases: list[Phase] = []

            def spend(name: str, seconds: float) -> None:
                before = callers.counts
                phase = Phase(name, seconds)
                end = time.monotonic() + seconds
                while time.monotonic() < end:
                    time.sleep(min(_LOOK_S, max(0.0, end - time.monotonic())))
                    phase.most_mb = max(phase.most_mb, up.memory_mb())
                    spent = sum(p.seconds for p in phases) + seconds - (end - time.monotonic())
                    kept, dropped = counters.kept, sum(counters.dropped.values())
                    progress.update(round(spent), detail=f"{name}: {kept} kept, {dropped} dropped")
                after = callers.counts
                phase.answers, phase.failed = after[0] - before[0], after[1] - before[1]
                phase.kept, phase.dropped = counters.kept, counters.dropped
                phases.append(phase)

            with callers.calling():
                spend("S3 is there", options.before)
                store.leave()
                spend("S3 is away", options.away)
                store.come_back()
                returned = time.time()
                spend("S3 is back", options.after)
        # The service has ended, and exported its final counts.
        rows = store.rows()
    late = sum(row.time > returned for row in rows)
    twice = len(rows) - len({row.key for row in rows})
    kept, dropped = counters.kept, counters.dropped
    return Found(phases, *callers.counts, kept, dropped, len(rows), twice, late)


def judge(found: Found) -> list[Check]:
    """All checks of the service."""
    asked, failed, dropped = found.asked, found.failed, sum(found.dropped.values())
    before, away, _ = found.phases
    missing = asked - failed - found.rows - dropped
    grown = max(phase.most_mb for phase in found.phases) - before.most_mb
    return [
        Check("answers that failed or differ", f"{failed} of {asked:,}", "0", failed == 0),
        Check("answers in a time without S3", f"{away.answers:,}", "any", away.answers > 0),
        Check(
            "neither in the store nor counted as dropped",
            f"{missing} ({found.rows:,} there, {dropped:,} dropped)",
            "0",
            missing == 0,
        ),
        Check("counted as kept", f"{found.kept:,}", f"{found.rows:,}", found.kept == found.rows),
        Check("rows that are there twice", str(found.twice), "0", found.twice == 0),
        Check("captured after the return", f"{found.late:,}", "any", found.late > 0),
        Check(
            "memory more than with S3",
            f"{grown:+.1f} MB",
            f"at most {_MOST_MB:g} MB",
            grown <= _MOST_MB,
        ),
    ]


class Store:
    """moto's S3, stopped and started again at the same address with the same objects."""

    def __init__(self) -> None:
        self._server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        self._port = 0

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables that configure it as the store."""
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self._port}",
            "AWS_REGION": REGION,
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": KEY,
        }

    @contextmanager
    def there(self) -> Iterator[None]:
        """Serves, with a bucket, until the block ends."""
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self._server.start()
        self._port = self._server.get_host_and_port()[1]
        boto3.client(
            "s3",
            endpoint_url=self.environment["AWS_ENDPOINT_URL"],
            region_name=REGION,
            aws_access_key_id=KEY,
            aws_secret_access_key=KEY,
        ).create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": REGION})
        try:
            yield
        finally:
            self._server.stop()

    def leave(self) -> None:
        """Stops listening."""
        self._server.stop()

    def come_back(self) -> None:
        """Listens again, with the same objects."""
        self._server = ThreadedMotoServer(ip_address="127.0.0.1", port=self._port, verbose=False)
        self._server.start()

    def rows(self) -> list[Capture]:
        return list(Captures(Bucket.from_environment(BUCKET, "", self.environment)).rows())


class Counters:
    """A collector that keeps the latest values of `kiln.capture.*`."""

    def __init__(self) -> None:
        self.kept, self.dropped = 0, dict[str, int]()

    def take(self, request: ExportMetricsServiceRequest) -> None:
        """Reads an export of one process; its sums are cumulative."""
        metrics = (
            metric
            for resource in request.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        )
        for metric in metrics:
            for point in metric.sum.data_points:
                value = int(point.as_int or point.as_double)
                if metric.name == "kiln.capture.kept":
                    self.kept = value
                elif metric.name == "kiln.capture.dropped" and value:
                    reason = point.attributes[0].value.string_value
                    self.dropped = {**self.dropped, reason: value}

    @contextmanager
    def collecting(self) -> Iterator[str]:
        """The endpoint of a collector that listens until the block ends."""
        counters = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.path == "/v1/metrics":
                    counters.take(ExportMetricsServiceRequest.FromString(_unpacked(self, body)))
                self.send_response(200)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *arguments: object) -> None:
                """Suppresses the access log."""

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        with serving(server) as address:
            yield address


def _unpacked(handler: BaseHTTPRequestHandler, body: bytes) -> bytes:
    return gzip.decompress(body) if handler.headers.get("Content-Encoding") == "gzip" else body


def pictures(size: tuple[int, int]) -> list[bytes]:
    """PNGs of noise."""
    random = np.random.default_rng(0)
    return [png(image) for image in random.integers(0, 256, (_IMAGES, *size, 3), np.uint8)]


class Callers:
    """Clients that send requests at a constant rate and compare predictions for the same image."""

    def __init__(self, port: int, images: Sequence[bytes], rate: float, callers: int) -> None:
        self._port, self._images, self._pause_s = port, images, callers / rate
        self._callers = callers
        self._said: dict[int, Any] = {}
        self._lock = threading.Lock()
        self._asked = self._failed = 0

    @property
    def counts(self) -> tuple[int, int]:
        """Finished requests, and how many failed or had another prediction than before."""
        with self._lock:
            return self._asked, self._failed

    @contextmanager
    def calling(self) -> Iterator[None]:
        """Sends requests until the block ends, and waits for their responses."""
        with in_threads(*(partial(self._call, number) for number in range(self._callers))):
            yield

    def _call(self, number: int, ending: threading.Event) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=_TIMEOUT_S)
        with closing(connection):
            while not ending.wait(self._pause_s):
                number = (number + 1) % len(self._images)
                is_good = self._ask(connection, number)
                with self._lock:
                    self._asked += 1
                    self._failed += not is_good

    def _ask(self, connection: http.client.HTTPConnection, number: int) -> bool:
        headers = {"content-type": "image/png"}
        try:
            connection.request("POST", "/predict", self._images[number], headers)
            response = connection.getresponse()
            said = json.loads(response.read())
        except (OSError, http.client.HTTPException, ValueError):
            connection.close()
            return False
        label = said.get("label")
        return response.status == 200 and label == self._said.setdefault(number, label)


def _show(found: Found, checks: Sequence[Check]) -> None:
    console = terminal(110)
    table = Table(title="Capture during an outage of its store")
    for name in ("phase", "seconds", "answers", "failed", "kept", "dropped", "most memory"):
        table.add_column(name)
    for one in found.phases:
        dropped = ", ".join(f"{reason} {n:,}" for reason, n in one.dropped.items()) or "0"
        counts = (f"{one.answers:,}", str(one.failed), f"{one.kept:,}", dropped)
        table.add_row(one.name, f"{one.seconds:.0f}", *counts, f"{one.most_mb:.1f} MB")
    console.print(table)
    console.print(checks_table(checks))


def _options() -> argparse.Namespace:
    parser = command_parser("//benchmarks/soak:outage", __doc__)
    add = parser.add_argument
    add("--model", type=Path, help="default: the built-in one")
    add("--before", type=float, default=30, help="seconds with S3 (30)")
    add("--away", type=float, default=600, help="seconds without it (600)")
    # The longest backoff of a service is 75 s.
    add("--after", type=float, default=100, help="seconds with it again (100)")
    add("--rate", type=float, default=40, help="requests a second (40)")
    add("--callers", type=count, default=4, help="at once (4)")
    add("--output", type=Path, help="path of a .json")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(interruptible(main))
