"""serve/telemetry/otlp.py: exports arrive as the standard variables ask, and any exchange becomes a
valid tree of spans."""

import datetime
import ipaddress
import re
import selectors
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanKind, StatusCode

from common.programs import free_port, serving
from serve.exchange import Exchange
from serve.settings import SettingsError
from serve.telemetry.export import ExportSettings
from serve.telemetry.otlp import SpanBuilder, Transport
from serve.telemetry.recorder import Request
from tests.serve.serving import MODEL
from tests.serve.telemetry.exporting import BODY, NEVER, service
from tests.serve.telemetry.receiver import Receiver, points, receiving

PATIENCE_S = 30.0
METRICS = {"OTEL_TRACES_EXPORTER": "none", "OTEL_LOGS_EXPORTER": "none"}
EVERYTHING = {"OTEL_TRACES_SAMPLER": "always_on"}


def exported(url: str, receiver: Receiver, **variables: str) -> bool:
    """Whether a request is counted at the receiver, exported to `url` with these variables."""
    with service(url, **METRICS, **variables) as (telemetry, client):
        assert client.post("/predict", json=BODY).status_code == 200
        telemetry.flush(PATIENCE_S if "TIMEOUT" not in str(variables) else 0.2)
    found = receiver.metrics().get("http.server.request.duration")
    return found is not None and points(found)[0][1].count == 1


@pytest.mark.parametrize("compression", ["none", "gzip"])
def test_bodies_and_headers_are_as_the_variables_say(compression: str) -> None:
    variables = {
        "OTEL_EXPORTER_OTLP_COMPRESSION": compression,
        "OTEL_EXPORTER_OTLP_HEADERS": "authorization=Bearer%20one,x-tenant=two",
    }
    with receiving() as receiver:
        assert exported(receiver.url, receiver, **variables)
    headers = receiver.headers[0]
    assert headers.get("content-encoding", "none") == compression
    assert (headers["authorization"], headers["x-tenant"]) == ("Bearer one", "two")
    assert headers["content-type"] == "application/x-protobuf"


def test_a_collector_that_asks_for_it_is_asked_again() -> None:
    with receiving() as receiver:
        receiver.refusals = 2
        assert exported(receiver.url, receiver)
        assert receiver.refusals == 0


def test_one_connection_serves_all_exports_of_a_signal_and_is_made_anew_when_it_broke() -> None:
    callers: list[int] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            callers.append(self.client_address[1])
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(200)
            self.send_header("content-length", "2")
            self.end_headers()
            self.wfile.write(b"ok")
            self.close_connection = len(callers) == 2  # without a word

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    with serving(ThreadingHTTPServer(("127.0.0.1", 0), Handler)) as address:
        transport, url = Transport("METRICS"), f"{address}/v1/metrics"
        answers = [
            transport.request("POST", url, headers={}, timeout=PATIENCE_S, data=b"x")
            for _ in range(2)
        ]
        broken = transport.request("POST", url, headers={}, timeout=PATIENCE_S, data=b"x")
        answers.append(transport.request("POST", url, headers={}, timeout=PATIENCE_S, data=b"x"))
        transport.close()
    assert [answer.status_code for answer in answers] == [200] * 3
    assert answers[0].content() == b"ok"
    assert answers[0].headers()["Content-Length"] == "2"
    assert broken.error is None or transport.is_connection_error(broken.error)
    assert callers[0] == callers[1] != callers[-1]


def test_a_collector_that_is_silent_costs_the_timeout_alone() -> None:
    with receiving(0) as receiver:
        transport = Transport("METRICS")
        found = transport.request("POST", receiver.url, headers={}, timeout=0.05, data=b"x")
        transport.close()
    assert isinstance(found.error, TimeoutError)
    assert transport.is_connection_error(found.error)


def test_an_export_neither_imports_requests_nor_what_is_not_exported() -> None:
    program = (
        "import sys\n"
        "from tests.serve.telemetry.receiver import receiving\n"
        "from serve.settings import Settings\n"
        "from serve.telemetry.telemetry import Telemetry\n"
        "from serve.inference.model_path import read_model\n"
        "from pathlib import Path\n"
        "import os\n"
        "with receiving() as receiver:\n"
        "    os.environ['OTEL_EXPORTER_OTLP_ENDPOINT'] = receiver.url\n"
        "    telemetry = Telemetry.start(Settings(cpus=1), read_model(Path(sys.argv[1])))\n"
        "    assert telemetry.flush(30) and receiver.metrics()\n"
        "    telemetry.close()\n"
        "late = ('requests', 'urllib3', 'urllib.request', 'opentelemetry.sdk._logs',\n"
        "    'opentelemetry.exporter.otlp.proto.http.trace_exporter')\n"
        "sys.exit(' '.join(name for name in late if name in sys.modules) or 0)\n"
    )
    environment = {"PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", program, str(MODEL)],
        env=environment,
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")


# ---- TLS ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Authority:
    """Makes certificates in a folder, all of which one certificate vouches for."""

    folder: Path
    key: ec.EllipticCurvePrivateKey = field(
        default_factory=lambda: ec.generate_private_key(ec.SECP256R1())
    )

    @property
    def path(self) -> Path:
        return self._write("authority", self.key, self.key)

    def certificate(self, name: str) -> tuple[Path, Path]:
        """Of this machine's address, and its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        path = self._write(name, key, self.key)
        file = path.with_suffix(".key")
        file.write_bytes(
            key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
        )
        return path, file

    def _write(
        self, name: str, key: ec.EllipticCurvePrivateKey, issuer: ec.EllipticCurvePrivateKey
    ) -> Path:
        now = datetime.datetime.now(datetime.UTC)
        address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
        made = (
            x509.CertificateBuilder()
            .subject_name(_named(name))
            .issuer_name(_named("authority"))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.SubjectAlternativeName([address]), critical=False)
            .add_extension(x509.BasicConstraints(ca=key is issuer, path_length=None), critical=True)
            .sign(issuer, hashes.SHA256())
        )
        path = self.folder / f"{name}.pem"
        path.write_bytes(made.public_bytes(Encoding.PEM))
        return path


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def server_context(authority: Authority, *, wants_certificates: bool = False) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=authority.path)
    context.load_cert_chain(*authority.certificate("server"))
    context.verify_mode = ssl.CERT_REQUIRED if wants_certificates else ssl.CERT_NONE
    return context


@pytest.mark.parametrize("scope", ["", "METRICS_"])
def test_the_collector_is_known_by_the_authority_that_is_named(
    authority: Authority, scope: str
) -> None:
    variable = f"OTEL_EXPORTER_OTLP_{scope}CERTIFICATE"
    with receiving(context=server_context(authority)) as receiver:
        assert exported(receiver.url, receiver, **{variable: str(authority.path)})


def test_a_collector_that_nobody_vouches_for_gets_nothing(authority: Authority) -> None:
    with receiving(context=server_context(authority)) as receiver:
        assert not exported(receiver.url, receiver)
        found = Transport("METRICS").request("POST", receiver.url, timeout=PATIENCE_S, data=b"x")
    assert isinstance(found.error, ssl.SSLCertVerificationError)
    assert not Transport("METRICS").is_connection_error(found.error)


@pytest.mark.parametrize("has_one", [True, False])
def test_the_service_shows_its_certificate_to_a_collector_that_wants_one(
    authority: Authority, has_one: bool
) -> None:
    variables = {"OTEL_EXPORTER_OTLP_CERTIFICATE": str(authority.path)}
    if has_one:
        path, key = authority.certificate("service")
        variables["OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE"] = str(path)
        variables["OTEL_EXPORTER_OTLP_CLIENT_KEY"] = str(key)
    context = server_context(authority, wants_certificates=True)
    with receiving(context=context) as receiver:
        if has_one:
            assert exported(receiver.url, receiver, **variables)
        else:
            variables["OTEL_EXPORTER_OTLP_TIMEOUT"] = "0.1"  # it would be asked again
            assert not exported(receiver.url, receiver, **variables)


@pytest.mark.parametrize("name", ["CERTIFICATE", "CLIENT_KEY", "TRACES_CLIENT_CERTIFICATE"])
def test_a_file_that_is_missing_is_named_before_anything_starts(name: str) -> None:
    variable = f"OTEL_EXPORTER_OTLP_{name}"
    variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": "https://127.0.0.1:1", variable: "/no/such.pem"}
    with pytest.raises(SettingsError, match=rf"{variable}.* '/no/such.pem'"):
        ExportSettings.from_environment(NEVER | variables)


# ---- Proxies ------------------------------------------------------------------------------------


@dataclass
class Proxy:
    """Passes everything on, wherever it was to go."""

    url: str = ""
    asked: list[tuple[str, str | None]] = field(default_factory=list)  # line, credentials


@contextmanager
def proxying(receiver: Receiver) -> Iterator[Proxy]:
    proxy, target = Proxy(), int(receiver.url.rpartition(":")[2])

    class Handler(BaseHTTPRequestHandler):
        def do_CONNECT(self) -> None:
            self._note()
            self.send_response(200)
            self.end_headers()
            with socket.create_connection(("127.0.0.1", target)) as far:
                _relay(self.connection, far)

        def do_POST(self) -> None:
            self._note()
            body = self.rfile.read(int(self.headers["content-length"]))
            path = "/" + self.path.split("/", 3)[3]
            head = f"POST {path} HTTP/1.1\r\nHost: {self.headers['host']}\r\nConnection: close\r\n"
            with socket.create_connection(("127.0.0.1", target)) as far:
                far.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
                while part := far.recv(65536):
                    self.wfile.write(part)

        def _note(self) -> None:
            proxy.asked.append((self.requestline, self.headers.get("proxy-authorization")))

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    with serving(ThreadingHTTPServer(("127.0.0.1", 0), Handler)) as url:
        proxy.url = url.replace("//", "//user:p%40ss@")  # pragma: allowlist secret: test proxy
        yield proxy


def _relay(near: socket.socket, far: socket.socket) -> None:
    with selectors.DefaultSelector() as waiting:
        waiting.register(near, selectors.EVENT_READ, far)
        waiting.register(far, selectors.EVENT_READ, near)
        while True:
            for key, _ in waiting.select():
                assert isinstance(key.fileobj, socket.socket)
                if not (data := key.fileobj.recv(65536)):
                    return
                key.data.sendall(data)


CREDENTIALS = "Basic dXNlcjpwQHNz"  # pragma: allowlist secret: test proxy


def test_a_proxy_is_asked_for_the_whole_address() -> None:
    with ExitStack() as stack:
        receiver = stack.enter_context(receiving())
        proxy = stack.enter_context(proxying(receiver))
        assert exported("http://collector.test:4318", receiver, HTTP_PROXY="", http_proxy=proxy.url)
    line = "POST http://collector.test:4318/v1/metrics HTTP/1.1"
    assert set(proxy.asked) == {(line, CREDENTIALS)}


def test_tls_goes_through_a_proxy_from_end_to_end(authority: Authority) -> None:
    with ExitStack() as stack:
        receiver = stack.enter_context(receiving(context=server_context(authority)))
        proxy = stack.enter_context(proxying(receiver))
        variables = {
            "OTEL_EXPORTER_OTLP_CERTIFICATE": str(authority.path),
            "HTTPS_PROXY": proxy.url,
        }
        assert exported(receiver.url, receiver, **variables)
    [(line, credentials), *_] = proxy.asked
    assert line == f"CONNECT {receiver.url.removeprefix('https://')} HTTP/1.0"
    assert credentials == CREDENTIALS


def test_hosts_that_need_no_proxy_are_asked_themselves() -> None:
    nobody = f"http://127.0.0.1:{free_port()}"
    with receiving() as receiver:
        variables = {"http_proxy": nobody, "NO_PROXY": "localhost,127.0.0.1"}
        assert exported(receiver.url, receiver, **variables)


PARENT = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
START_NS = 1_700_000_000_000_000_000
BUILDER = SpanBuilder(Resource.create({}), InstrumentationScope("test"))

seconds = st.floats(0, 30)


@st.composite
def exchanges(draw: st.DrawFn) -> tuple[Exchange, float]:
    """Any request, also one whose times contradict each other, and its duration."""
    exchange = Exchange(draw(st.sampled_from([None, PARENT, b"garbage"])))
    duration = draw(seconds)
    exchange.status = draw(st.sampled_from([0, 200, 404, 422, 500, 503]))
    exchange.decode_at = exchange.start + draw(seconds)
    if draw(st.booleans()):
        exchange.decode_s = draw(seconds)
    if draw(st.booleans()):
        exchange.queue_s, exchange.infer_s = draw(seconds), draw(seconds)
        exchange.batch = draw(st.integers(0, 100))
    if draw(st.booleans()):
        exchange.encode_at, exchange.encode_s = exchange.start + draw(seconds), draw(seconds)
    return exchange, duration


def tree(exchange: Exchange, duration: float, path: str = "/predict") -> list[ReadableSpan]:
    request = Request("POST", "/predict", exchange.status, exchange.error)
    return BUILDER.tree(exchange, request, path, START_NS, START_NS + round(duration * 1e9))


@given(exchanges())
def test_any_call_becomes_a_valid_tree(drawn: tuple[Exchange, float]) -> None:
    server, *children = tree(*drawn)
    assert server.context
    assert server.start_time is not None
    assert server.end_time is not None
    assert f"{server.context.trace_id:032x}" == drawn[0].request_id
    ids = {span.context.span_id for span in (server, *children) if span.context}
    assert len(ids) == 1 + len(children)
    assert 0 not in ids
    names = [child.name for child in children]
    assert names == sorted(names, key=["decode", "queue", "infer", "encode"].index)
    for child in children:
        assert child.parent == server.context
        assert child.start_time is not None
        assert child.end_time is not None
        assert server.start_time <= child.start_time <= child.end_time <= server.end_time


@given(st.binary(max_size=70))
def test_any_traceparent_gives_valid_ids(header: bytes) -> None:
    exchange = Exchange(header)
    server = tree(exchange, 0.1)[0]
    assert server.context is not None
    assert server.context.is_valid
    assert (server.parent is None) == (exchange.parent is None)


@given(st.binary(max_size=100))
def test_any_tracestate_is_taken_or_left(header: bytes) -> None:
    exchange = Exchange(PARENT)
    exchange.tracestate = header
    assert tree(exchange, 0.1)[0].context


def test_a_caller_s_trace_goes_on() -> None:
    exchange = Exchange(PARENT)
    exchange.tracestate = b"vendor=opaque,other=1"
    server = tree(exchange, 0.1)[0]
    assert server.parent
    assert server.parent.span_id == 0xB7AD6B7169203331
    assert server.parent.is_remote
    assert server.context
    assert server.context.trace_state.to_header() == "vendor=opaque,other=1"


def test_names_are_those_of_the_conventions() -> None:
    exchange = Exchange(None, "https")
    exchange.status, exchange.error = 500, "internal-error"
    server = tree(exchange, 0.1, "/prod/predict" + "x" * 1000)[0]
    assert (server.name, server.kind) == ("POST /predict", SpanKind.SERVER)
    assert server.status.status_code is StatusCode.ERROR
    assert server.attributes is not None
    assert re.fullmatch("/prod/predictx{243}", str(server.attributes["url.path"]))
    assert {name: server.attributes[name] for name in server.attributes if name != "url.path"} == {
        "url.scheme": "https",
        "http.request.method": "POST",
        "http.route": "/predict",
        "http.response.status_code": 500,
        "error.type": "internal-error",
    }


def test_a_caller_s_mistake_is_no_error_of_the_server() -> None:
    exchange = Exchange(None)
    exchange.status, exchange.error = 422, "unreadable-image"
    server = tree(exchange, 0.1)[0]
    assert server.status.status_code is StatusCode.UNSET
    assert server.attributes
    assert server.attributes["error.type"] == "unreadable-image"
