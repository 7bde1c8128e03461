"""AWS credentials from where its runtimes put them: environment variables, or the container
endpoint.

https://docs.aws.amazon.com/sdkref/latest/guide/feature-container-credentials.html
"""

import json
import time
from collections.abc import Mapping
from datetime import datetime
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from ipaddress import ip_address
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from common.objects import StoreError

_ECS = "http://169.254.170.2"
_LINK_LOCAL = ("169.254.170.2", "169.254.170.23", "fd00:ec2::23")  # for ECS and EKS
_EARLY_S = 300.0  # refresh this long before they expire
_TIMEOUT_S = 2.0


class Credentials(NamedTuple):
    """Credentials of an access key, or of a session if there is a token."""

    key: str
    secret: str
    token: str = ""


class CredentialSource:
    """Caches credentials and refreshes them shortly before they expire."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self._known: Credentials | None = None
        self._expires_at = 0.0  # time.time()

    def get(self) -> Credentials:
        """Credentials that are valid now.

        Raises:
            StoreError: there are none.
        """
        if self._known is None or time.time() > self._expires_at - _EARLY_S:
            self._known, self._expires_at = self._ask()
        return self._known

    def _ask(self) -> tuple[Credentials, float]:
        given = self._environ
        if given.get("AWS_ACCESS_KEY_ID") and given.get("AWS_SECRET_ACCESS_KEY"):
            names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
            return Credentials(*(given.get(name, "") for name in names)), float("inf")
        url = given.get("AWS_CONTAINER_CREDENTIALS_FULL_URI", "")
        if relative := given.get("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"):
            url = _ECS + relative
        if not url:
            raise StoreError(
                "no AWS credentials: give the function or the container a role, or set "
                "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            )
        try:
            found = json.loads(_fetched(url, self._token()))
            expires = found.get("Expiration")
            until = datetime.fromisoformat(expires).timestamp() if expires else float("inf")
            return (
                Credentials(found["AccessKeyId"], found["SecretAccessKey"], found.get("Token", "")),
                until,
            )
        except (OSError, HTTPException, ValueError, KeyError, AttributeError) as exc:
            raise StoreError(f"no AWS credentials from {url}: {exc}") from exc

    def _token(self) -> str:
        if file := self._environ.get("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"):
            # The file is rotated from time to time.
            return Path(file).read_text(encoding="utf-8").strip()
        return self._environ.get("AWS_CONTAINER_AUTHORIZATION_TOKEN", "")


def _fetched(url: str, token: str) -> bytes:
    parts = urlsplit(url)
    host = parts.hostname or ""
    if parts.scheme != "https" and not _is_near(host):
        raise ValueError("expected https, or an address of this machine or of the container's")
    kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
    connection = kind(parts.netloc, timeout=_TIMEOUT_S)
    try:
        path = f"{parts.path or '/'}?{parts.query}" if parts.query else parts.path or "/"
        connection.request("GET", path, headers={"authorization": token} if token else {})
        response = connection.getresponse()
        body = response.read()
    finally:
        connection.close()
    if response.status != 200:
        raise ValueError(f"status {response.status}")
    return body


def _is_near(host: str) -> bool:
    if host in _LINK_LOCAL or host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
