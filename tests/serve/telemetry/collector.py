"""A real chain for telemetry: OTLP into rotel, metrics on into VictoriaMetrics, the rest kept here.

with collector(tmp_path) as chain:
    environment = chain.environment  # for the process that exports
    ...
    wait_until(lambda: chain.value("sum(kiln_requests_total)") == 3)
    assert len(chain.spans) == 3
"""

from __future__ import annotations

import gzip
import importlib.util
import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.parse import urlencode
from urllib.request import urlopen

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue

from common.programs import free_port, require_program, serving
from tests.helpers.waiting import PATIENCE_S, wait_until

_BATCH = "20ms"  # that the collector waits for more


@dataclass(frozen=True)
class Span:
    """As it came out of the collector; ids in hexadecimal digits, the root's parent is ""."""

    name: str
    trace_id: str
    span_id: str
    parent_id: str
    attributes: Mapping[str, Any]
    resource: Mapping[str, Any]


@dataclass(frozen=True)
class Log:
    """A record as it came out of the collector."""

    body: Any
    severity: str
    trace_id: str
    attributes: Mapping[str, Any]
    resource: Mapping[str, Any]


@dataclass
class Received:
    """What arrived that is no metric; may be read while more arrives."""

    spans: list[Span] = field(default_factory=list)
    logs: list[Log] = field(default_factory=list)


@dataclass
class Chain:
    """The collector's address, and what has come through it."""

    endpoint: str  # for OTEL_EXPORTER_OTLP_ENDPOINT
    store: str
    process: subprocess.Popen[bytes]  # the collector's
    received: Received

    @property
    def environment(self) -> dict[str, str]:
        """Variables for a process that exports everything to this chain, every trace included."""
        return {
            "OTEL_EXPORTER_OTLP_ENDPOINT": self.endpoint,
            "OTEL_TRACES_SAMPLER": "always_on",
            "NO_PROXY": "*",
        }

    @property
    def spans(self) -> list[Span]:
        return list(self.received.spans)

    @property
    def logs(self) -> list[Log]:
        return list(self.received.logs)

    def query(self, promql: str, **parameters: str) -> list[dict[str, Any]]:
        """The instant vector: dicts of `metric` (labels) and `value` (seconds, text)."""
        _get(f"{self.store}/internal/force_flush")
        parameters = {"query": promql, **parameters}
        answer = json.loads(_get(f"{self.store}/api/v1/query?{urlencode(parameters)}"))
        assert answer["status"] == "success", answer
        result: list[dict[str, Any]] = answer["data"]["result"]
        return result

    def value(self, promql: str) -> float | None:
        """The only value of the query's answer; None where nothing is known yet."""
        result = self.query(promql)
        assert len(result) <= 1, result
        return float(result[0]["value"][1]) if result else None

    def names(self) -> list[str]:
        """All metrics that have arrived."""
        _get(f"{self.store}/internal/force_flush")
        names: list[str] = json.loads(_get(f"{self.store}/api/v1/label/__name__/values"))["data"]
        return names

    def freeze(self) -> None:
        """The collector takes connections, as its kernel does, but answers nothing."""
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.process.send_signal(signal.SIGCONT)


@contextmanager
def collector(folder: Path) -> Iterator[Chain]:
    """All three programs for as long as the block runs, on free ports of the loopback device."""
    grpc, http, store = (f"127.0.0.1:{free_port()}" for _ in range(3))
    received = Received()
    with _receiver(received) as receiver, _running(_store(store, folder / "metrics"), folder):
        _wait_for(f"http://{store}/health")
        with _running(_collector(grpc, http, store, receiver), folder) as process:
            wait_until(lambda: _listens(http), "the collector to listen")
            yield Chain(f"http://{http}", f"http://{store}", process, received)


def rotel() -> Path:
    """The collector's program, which the wheel `rotel` carries inside its package."""
    spec = importlib.util.find_spec("rotel")
    assert spec, "expected the package rotel"
    assert spec.origin
    return Path(spec.origin).with_name("rotel-agent")


# ---- The programs -------------------------------------------------------------------------------


def _collector(grpc: str, http: str, store: str, receiver: str) -> list[str]:
    options = {
        "otlp-grpc-endpoint": grpc,
        "otlp-http-endpoint": http,
        "batch-timeout": _BATCH,
        "exporter": "otlp",
        "otlp-exporter-protocol": "http",
        "otlp-exporter-metrics-endpoint": f"http://{store}/opentelemetry/v1/metrics",
        "otlp-exporter-traces-endpoint": f"http://{receiver}/v1/traces",
        "otlp-exporter-logs-endpoint": f"http://{receiver}/v1/logs",
        "otlp-exporter-retry-initial-backoff": "100ms",
    }
    return [str(rotel()), "start", *(f"--{name}={value}" for name, value in options.items())]


def _store(address: str, folder: Path) -> list[str]:
    options = {
        "httpListenAddr": address,
        "storageDataPath": str(folder),
        "retentionPeriod": "1d",
        "opentelemetry.usePrometheusNaming": "true",
        "search.latencyOffset": "0s",  # the newest samples count
        "search.disableCache": "true",
        "memory.allowedBytes": "64MB",
    }
    program = str(require_program("victoria-metrics"))
    return [program, *(f"-{name}={value}" for name, value in options.items())]


@contextmanager
def _running(command: Sequence[str], folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / f"{Path(command[0]).name}.log"
    # No variable of a proxy, and none of OpenTelemetry, is meant for these.
    with (
        log.open("wb") as file,
        subprocess.Popen(command, stdout=file, stderr=file, env={"PATH": os.defpath}) as process,
    ):
        try:
            yield process
        finally:
            process.send_signal(signal.SIGCONT)
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()


def _get(url: str) -> bytes:
    with urlopen(url, timeout=PATIENCE_S) as answer:
        content: bytes = answer.read()
        return content


def _wait_for(url: str) -> None:
    def answers() -> bool:
        try:
            _get(url)
        except (URLError, ConnectionError):
            return False
        return True

    wait_until(answers, url)


def _listens(address: str) -> bool:
    host, _, port = address.rpartition(":")
    with socket.socket() as probe:
        return probe.connect_ex((host, int(port))) == 0


# ---- The end of the chain for traces and logs ---------------------------------------------------


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    received: Received


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, *arguments: object) -> None:
        """Silent."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        if self.path == "/v1/traces":
            self.server.received.spans += _spans(ExportTraceServiceRequest.FromString(body))
        else:
            self.server.received.logs += _logs(ExportLogsServiceRequest.FromString(body))
        self.send_response(200)
        self.send_header("Content-Type", "application/x-protobuf")
        self.send_header("Content-Length", "0")
        self.end_headers()


@contextmanager
def _receiver(received: Received) -> Iterator[str]:
    server = _Server(("127.0.0.1", 0), _Handler)
    server.received = received
    with serving(server) as url:
        yield url.removeprefix("http://")


def _spans(request: ExportTraceServiceRequest) -> list[Span]:
    return [
        Span(
            span.name,
            span.trace_id.hex(),
            span.span_id.hex(),
            span.parent_span_id.hex(),
            _attributes(span.attributes),
            _attributes(resource_spans.resource.attributes),
        )
        for resource_spans in request.resource_spans
        for scope_spans in resource_spans.scope_spans
        for span in scope_spans.spans
    ]


def _logs(request: ExportLogsServiceRequest) -> list[Log]:
    return [
        Log(
            _value(record.body),
            record.severity_text,
            record.trace_id.hex(),
            _attributes(record.attributes),
            _attributes(resource_logs.resource.attributes),
        )
        for resource_logs in request.resource_logs
        for scope_logs in resource_logs.scope_logs
        for record in scope_logs.log_records
    ]


def _attributes(pairs: Sequence[KeyValue]) -> dict[str, Any]:
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(item) for item in value.array_value.values]
    if kind == "kvlist_value":
        return _attributes(value.kvlist_value.values)
    return getattr(value, kind) if kind else None
