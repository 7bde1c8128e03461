"""serve/telemetry/otlp.py: exports arrive as the standard variables ask."""

import datetime
import ipaddress
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

from common.programs import free_port, serving
from serve.settings import SettingsError
from serve.telemetry.export import ExportSettings
from serve.telemetry.otlp import Transport
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
