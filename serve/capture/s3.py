"""An S3 bucket as `common.objects.Store`, in the standard library: boto3 would be a third of the
image.

Requests are signed with AWS Signature Version 4:
https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html
Credentials are read where AWS's runtimes put them, in environment variables or at the container
endpoint: https://docs.aws.amazon.com/sdkref/latest/guide/feature-container-credentials.html
"""

import hashlib
import hmac
import json
import re
import threading
import time
from calendar import timegm
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from html import unescape
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from ipaddress import ip_address
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote, unquote_plus, urlsplit

from common.objects import Stored, StoreError
from serve.tls import client_context

_TIMEOUT_S = 5.0  # timeout of each network operation
_EMPTY = hashlib.sha256(b"").hexdigest()
_MISSING, _REFUSED, _BUSY = 404, 412, 409
_TRIES = 4  # retries while another writer holds the same key
_UNRESERVED = "-_.~"  # unreserved characters of RFC 3986, beside letters and digits
_CAUSES = {
    301: "wrong region: set AWS_REGION",
    403: "access denied: check the permissions and the clock",
    404: "create the bucket, or name another",
}


_ECS = "http://169.254.170.2"
_LINK_LOCAL = ("169.254.170.2", "169.254.170.23", "fd00:ec2::23")  # for ECS and EKS
_EARLY_S = 300.0  # refresh this long before they expire
_CREDENTIALS_TIMEOUT_S = 2.0


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
    connection = kind(parts.netloc, timeout=_CREDENTIALS_TIMEOUT_S)
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


class Response(NamedTuple):
    status: int
    body: bytes
    headers: Mapping[str, str]


class Bucket:
    """The objects below ``s3://bucket/prefix``. Serialised: other threads wait."""

    def __init__(
        self, bucket: str, prefix: str, region: str, endpoint: str, source: CredentialSource
    ) -> None:
        """Sends no request yet.

        Args:
            endpoint: an S3-compatible store, such as http://127.0.0.1:5000; "": Amazon's.
        """
        self._bucket, self._region, self._source = bucket, region, source
        self._prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        self._path = ""  # before the key
        if endpoint:
            self._path = f"/{bucket}"
        else:
            domain = "amazonaws.com.cn" if region.startswith("cn-") else "amazonaws.com"
            host = f"s3.{region}.{domain}"
            if "." in bucket:  # wildcard certificates cover no bucket names with dots
                self._path, endpoint = f"/{bucket}", f"https://{host}"
            else:
                endpoint = f"https://{bucket}.{host}"
        self._url = urlsplit(endpoint)
        self._connection: HTTPConnection | None = None
        self._in_use = threading.Lock()

    @classmethod
    def from_environment(cls, bucket: str, prefix: str, environ: Mapping[str, str]) -> "Bucket":
        """Configured by the environment variables of AWS's SDKs."""
        region = environ.get("AWS_REGION") or environ.get("AWS_DEFAULT_REGION") or "us-east-1"
        endpoint = environ.get("AWS_ENDPOINT_URL_S3") or environ.get("AWS_ENDPOINT_URL") or ""
        return cls(bucket, prefix, region, endpoint, CredentialSource(environ))

    @property
    def url(self) -> str:
        """Its location as a user would write it."""
        return f"s3://{self._bucket}/{self._prefix}".rstrip("/")

    def read(self, key: str) -> bytes:
        """An object's bytes; KeyError if there is none."""
        answer = self._ask("GET", key)
        if answer.status == _MISSING and b"NoSuchBucket" not in answer.body:
            raise KeyError(key)
        return self._good(answer, key).body

    def create(self, key: str, data: bytes) -> bool:
        """Writes it if it is absent; true if the object holds these bytes afterwards."""
        for attempt in range(_TRIES):
            answer = self._ask("PUT", key, data=data, headers={"if-none-match": "*"})
            if answer.status == _REFUSED:  # perhaps our own write, whose response was lost
                return self.read(key) == data
            if answer.status != _BUSY:
                break
            time.sleep(0.05 * 2**attempt)
        self._good(answer, key)
        return True

    def entries(self, prefix: str, after: str = "") -> list[Stored]:
        """Objects whose key starts with `prefix` and sorts after `after`, in order."""
        found: list[Stored] = []
        query = {
            "list-type": "2",
            "prefix": self._prefix + prefix,
            "encoding-type": "url",
            **({"start-after": self._prefix + after} if after else {}),
        }
        while True:
            page = self._good(self._ask("GET", None, query), prefix).body.decode()
            found += [self._stored(one) for one in re.findall(r"<Contents>(.*?)</Contents>", page)]
            token = _field(page, "NextContinuationToken")
            if not token:
                return found
            query["continuation-token"] = token

    def delete(self, key: str) -> None:
        """Removes an object, if it is there."""
        answer = self._ask("DELETE", key)
        if answer.status != _MISSING:
            self._good(answer, key)

    def unfinished(self) -> list[Stored]:
        """Nothing: S3 never exposes a partial object."""
        return []

    def close(self) -> None:
        """Closes the connection; the next request opens another."""
        with self._in_use:
            self._disconnect()

    def _stored(self, item: str) -> Stored:
        modified = time.strptime(_field(item, "LastModified")[:19], "%Y-%m-%dT%H:%M:%S")
        key = unquote_plus(_field(item, "Key")).removeprefix(self._prefix)
        return Stored(key, int(_field(item, "Size")), float(timegm(modified)))

    def _good(self, answer: Response, about: str) -> Response:
        if 200 <= answer.status < 300:
            return answer
        text = answer.body.decode("utf-8", "replace")
        said = _field(text, "Code") or f"status {answer.status}"
        cause = _CAUSES.get(answer.status, "it is safe to try again")
        raise StoreError(f"{self.url}/{about}: {said} {_field(text, 'Message')}: {cause}")

    def _ask(
        self,
        method: str,
        key: str | None,
        query: Mapping[str, str] | None = None,
        data: bytes = b"",
        headers: Mapping[str, str] | None = None,
    ) -> Response:
        path = self._path + (f"/{self._prefix}{key}" if key is not None else "/")
        target = quote(path, safe=_UNRESERVED + "/")
        asked = "&".join(f"{_encoded(k)}={_encoded(v)}" for k, v in sorted((query or {}).items()))
        with self._in_use:
            try:
                signed = sign(
                    method,
                    self._url.netloc,
                    target,
                    asked,
                    headers or {},
                    data,
                    self._source.get(),
                    self._region,
                    datetime.now(UTC),
                )
                return self._send(method, f"{target}?{asked}" if asked else target, data, signed)
            except (OSError, HTTPException) as exc:
                self._disconnect()
                said = str(exc) or type(exc).__name__
                raise StoreError(f"{self.url} cannot be reached: {said}") from exc

    def _send(self, method: str, target: str, data: bytes, headers: Mapping[str, str]) -> Response:
        for is_last in (False, True):
            is_new = self._connection is None
            if self._connection is None:
                self._connection = connect(self._url.scheme, self._url.netloc)
            try:
                self._connection.request(method, target, data or None, dict(headers))
                response = self._connection.getresponse()
                body = response.read()
            except (ConnectionError, HTTPException):
                self._disconnect()
                if is_new or is_last:  # otherwise the server had closed an idle connection
                    raise
                continue
            fields = {name.lower(): value for name, value in response.getheaders()}
            if response.will_close:
                self._disconnect()
            return Response(response.status, body, fields)
        raise AssertionError

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def connect(scheme: str, netloc: str) -> HTTPConnection:
    """A connection that opens at its first request."""
    if scheme == "http":
        return HTTPConnection(netloc, timeout=_TIMEOUT_S)
    return HTTPSConnection(netloc, timeout=_TIMEOUT_S, context=client_context())


def sign(
    method: str,
    host: str,
    target: str,
    query: str,
    headers: Mapping[str, str],
    data: bytes,
    credentials: Credentials,
    region: str,
    now: datetime,
) -> dict[str, str]:
    """The headers of a request, including its signature.

    Args:
        target: the path; `query` follows it. Both are encoded as sent, and `query` is sorted.
        headers: additional headers, in lower case.
    """
    at, day = now.strftime("%Y%m%dT%H%M%SZ"), now.strftime("%Y%m%d")
    digest = hashlib.sha256(data).hexdigest() if data else _EMPTY
    signed = {**headers, "host": host, "x-amz-content-sha256": digest, "x-amz-date": at}
    if credentials.token:
        signed["x-amz-security-token"] = credentials.token
    names = sorted(signed)
    lines = [f"{name}:{' '.join(signed[name].split())}" for name in names]
    request = "\n".join([method, target, query, *lines, "", ";".join(names), digest])
    scope = f"{day}/{region}/s3/aws4_request"
    text = f"AWS4-HMAC-SHA256\n{at}\n{scope}\n{hashlib.sha256(request.encode()).hexdigest()}"
    signature = _chained(
        f"AWS4{credentials.secret}".encode(), [day, region, "s3", "aws4_request", text]
    )
    signed["authorization"] = (
        f"AWS4-HMAC-SHA256 Credential={credentials.key}/{scope}, "
        f"SignedHeaders={';'.join(names)}, Signature={signature.hex()}"
    )
    return signed


def _chained(key: bytes, parts: Sequence[str]) -> bytes:
    for part in parts:
        key = hmac.digest(key, part.encode(), "sha256")
    return key


def _encoded(text: str) -> str:
    return quote(text, safe=_UNRESERVED)


def _field(xml: str, name: str) -> str:
    """The text of the first element of that name; keys are URL-encoded in it."""
    found = re.search(f"<{name}>(.*?)</{name}>", xml, re.DOTALL)
    return unescape(found[1]) if found else ""
