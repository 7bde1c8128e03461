"""Certificate authorities for the provisioned Java, taken from what this machine trusts."""

from __future__ import annotations

import base64
import hashlib
import os
import re
import struct
from pathlib import Path

BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",  # Debian and its family
    "/etc/pki/tls/certs/ca-bundle.crt",  # Fedora and its family
    "/etc/ssl/ca-bundle.pem",  # SUSE
)
CERTIFICATE = re.compile(rb"-----BEGIN CERTIFICATE-----(.+?)-----END CERTIFICATE-----", re.DOTALL)
# The JKS format of Java's KeyStore: magic, version, entries, and a digest salted with a fixed text.
JKS_MAGIC, JKS_VERSION, TRUSTED_ENTRY = 0xFEEDFEED, 2, 2
PASSWORD = "changeit"  # Java's own default; it protects nothing, the file holds public certificates


def machine_certificates() -> list[bytes]:
    """The DER certificates of ``$SSL_CERT_FILE`` or the system's bundle; none is no error."""
    chosen = os.environ.get("SSL_CERT_FILE")
    paths = [Path(path) for path in ((chosen,) if chosen else BUNDLES)]
    bundle = next((path.read_bytes() for path in paths if path.is_file()), b"")
    return [base64.b64decode(body) for body in CERTIFICATE.findall(bundle)]


def java_trust_store(certificates: list[bytes]) -> bytes:
    """The bytes of a JKS file that trusts ``certificates``."""
    body = struct.pack(">III", JKS_MAGIC, JKS_VERSION, len(certificates))
    for number, certificate in enumerate(certificates):
        alias, date_ms = _text(f"authority-{number}"), struct.pack(">Q", 0)
        encoded = struct.pack(">I", len(certificate)) + certificate
        body += struct.pack(">I", TRUSTED_ENTRY) + alias + date_ms + _text("X.509") + encoded
    salted = PASSWORD.encode("utf-16-be") + b"Mighty Aphrodite" + body
    return body + hashlib.sha1(salted).digest()  # what the format asks for


def _text(text: str) -> bytes:
    return struct.pack(">H", len(text)) + text.encode()
