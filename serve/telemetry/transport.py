"""HTTP transport to the collector for OpenTelemetry's exporters, in the standard library.

The SDK's own transport imports requests and urllib3, a sixth of a start on AWS Lambda, where the
first call waits for its export. TLS, proxies and certificates are read from the variables that the
SDK and requests read.
"""

import os
import ssl
import threading
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

from opentelemetry.exporter.http.transport._base import BaseHTTPResult, BaseHTTPTransport

from serve.tls import client_context

_PORTS = {"http": 80, "https": 443}


def certificate(signal: str, name: str) -> str | None:
    """The file named by OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE or the variable of all signals."""
    prefix = "OTEL_EXPORTER_OTLP_"
    return os.environ.get(f"{prefix}{signal}_{name}") or os.environ.get(prefix + name) or None


@dataclass(frozen=True, slots=True)
class Result(BaseHTTPResult):
    """The collector's response."""

    body: bytes = b""
    fields: Mapping[str, str] = field(default_factory=dict)

    def content(self) -> bytes:
        return self.body

    def headers(self) -> Mapping[str, str]:
        """Header fields, case-insensitive."""
        return self.fields


class Transport(BaseHTTPTransport):
    """A signal's persistent connection to the collector, reopened when it breaks."""

    def __init__(self, signal: str) -> None:
        self._authority = certificate(signal, "CERTIFICATE")
        self._certificate = certificate(signal, "CLIENT_CERTIFICATE")
        self._key = certificate(signal, "CLIENT_KEY")
        self._connection: HTTPConnection | None = None
        self._site = ""  # prefix of the path: proxies are sent absolute URLs
        self._fields: dict[str, str] = {}  # proxy authorization in each request
        self._in_use, self._is_closed = threading.Lock(), False

    def request(
        self,
        method: str,
        url: str,
        *,
        headers: dict[str, str] | None = None,
        timeout: float | None = None,
        data: bytes | None = None,
    ) -> Result:
        """The response, or an error; `timeout` applies to each operation."""
        with self._in_use:
            try:
                return self._ask(method, urlsplit(url), headers or {}, timeout, data)
            except (OSError, HTTPException) as exc:
                self._disconnect()
                return Result(error=exc)
            finally:
                if self._is_closed:
                    self._disconnect()

    def is_connection_error(self, exception: Exception | None) -> bool:
        """Whether a retry may succeed; not after certificate errors."""
        return isinstance(exception, (OSError, HTTPException)) and not isinstance(
            exception, ssl.SSLCertVerificationError
        )

    def close(self) -> None:
        """Closes the connection, or makes the request in progress close it at its end."""
        self._is_closed = True
        if self._in_use.acquire(blocking=False):
            try:
                self._disconnect()
            finally:
                self._in_use.release()

    def _ask(
        self,
        method: str,
        url: SplitResult,
        headers: Mapping[str, str],
        timeout: float | None,
        data: bytes | None,
    ) -> Result:
        if self._connection is None:
            self._connection = self._connect(url)
        connection = self._connection
        connection.timeout = timeout
        if connection.sock is not None:
            connection.sock.settimeout(timeout)
        path = f"{url.path or '/'}?{url.query}" if url.query else url.path or "/"
        connection.request(method, self._site + path, data, {**headers, **self._fields})
        response = connection.getresponse()
        fields: Any = response.headers  # an email message: `get` ignores case
        return Result(response.status, response.reason, None, response.read(), fields)

    def _connect(self, url: SplitResult) -> HTTPConnection:
        host, port = url.hostname or "", url.port or _PORTS[url.scheme]
        proxy = _proxy(url.scheme, host)
        if proxy is None:
            return self._open(url.scheme, host, port)
        near = self._open(url.scheme, proxy.hostname or "", proxy.port or _PORTS["http"])
        if url.scheme == "https":
            near.set_tunnel(host, port, _credentials(proxy))
        else:
            self._site = f"http://{url.netloc.rpartition('@')[2]}"
            self._fields = _credentials(proxy)
        return near

    def _open(self, scheme: str, host: str, port: int) -> HTTPConnection:
        if scheme == "http":
            return HTTPConnection(host, port)
        return HTTPSConnection(host, port, context=self._context())

    def _context(self) -> ssl.SSLContext:
        context = client_context(self._authority)
        if self._certificate:
            context.load_cert_chain(self._certificate, self._key)
        return context

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _proxy(scheme: str, host: str) -> SplitResult | None:
    """The proxy from HTTPS_PROXY, HTTP_PROXY or ALL_PROXY, unless NO_PROXY matches the host."""
    if not any(name.lower().endswith("_proxy") for name in os.environ):
        return None
    from urllib.request import getproxies, proxy_bypass

    proxies = getproxies()
    url = proxies.get(scheme) or proxies.get("all")
    if not url or proxy_bypass(host):
        return None
    return urlsplit(url if "://" in url else f"http://{url}")


def _credentials(proxy: SplitResult) -> dict[str, str]:
    if not proxy.username:
        return {}
    pair = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}".encode()
    return {"Proxy-Authorization": f"Basic {b64encode(pair).decode()}"}
