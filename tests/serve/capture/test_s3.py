"""serve/capture/s3.py: signatures as AWS's own signer makes them, and a bucket
of moto's server, which checks them."""

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import quote, urlsplit
from urllib.request import Request, urlopen

import boto3
import numpy as np
import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials as BotoCredentials
from hypothesis import given
from hypothesis import strategies as st
from moto.server import ThreadedMotoServer

from common.captures import Capture, Captures, decode_rows
from common.objects import StoreError
from common.programs import free_port, serving
from serve.capture import recorder as recorder_module
from serve.capture import s3 as s3_module
from serve.capture.recorder import Recorder
from serve.capture.s3 import Bucket, Credentials, CredentialSource, sign
from serve.capture.watch import open_place
from serve.exchange import Exchange
from serve.http.keys import digest_of
from tests.helpers.waiting import wait_until
from tests.serve.server_process import running
from tests.serve.serving import base64_of, image_file, pixels

REGION = "eu-central-1"
AT = datetime(2026, 11, 30, 8, 0, 1, tzinfo=UTC)
POLICY = {
    "Version": "2012-10-17",
    "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}],
}
words = st.text(st.characters(min_codepoint=32, max_codepoint=0x2FF), max_size=20)


class _Fixed(S3SigV4Auth):  # type: ignore[misc]  # botocore has no types
    """botocore's signer at a time that the test chooses."""

    def add_auth(self, request: AWSRequest) -> None:
        request.context["timestamp"] = AT.strftime("%Y%m%dT%H%M%SZ")
        self._modify_request_before_signing(request)
        canonical = self.canonical_request(request)
        signature = self.signature(self.string_to_sign(request, canonical), request)
        self._inject_signature_to_request(request, signature)


@given(
    st.sampled_from(["GET", "PUT", "DELETE"]),
    words,
    st.dictionaries(st.sampled_from(["prefix", "list-type", "continuation-token"]), words),
    st.binary(max_size=30),
    st.sampled_from(["", "a token/+="]),
)
def test_requests_are_signed_as_botocore_signs_them(
    method: str, key: str, query: dict[str, str], data: bytes, token: str
) -> None:
    target = quote(f"/bucket/{key}", safe="-_.~/")
    asked = "&".join(
        f"{quote(k, safe='-_.~')}={quote(v, safe='-_.~')}" for k, v in sorted(query.items())
    )
    ours = sign(
        method,
        "127.0.0.1:5000",
        target,
        asked,
        {"if-none-match": "*"},
        data,
        Credentials("AKIA", "secret", token),
        REGION,
        AT,
    )
    theirs = AWSRequest(
        method,
        f"http://127.0.0.1:5000{target}" + (f"?{asked}" if asked else ""),
        {"if-none-match": "*"},
        data,
    )
    theirs.context["payload_signing_enabled"] = True
    theirs.context["client_config"] = None
    _Fixed(BotoCredentials("AKIA", "secret", token or None), "s3", REGION).add_auth(theirs)
    assert ours["authorization"] == theirs.headers["Authorization"]


@pytest.fixture(scope="module")
def cloud() -> Iterator[dict[str, str]]:
    """Variables of a moto server that has a bucket and checks each signature."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    more: dict[str, Any] = {
        "endpoint_url": url,
        "region_name": REGION,
        "aws_access_key_id": "any",
        "aws_secret_access_key": "any",  # pragma: allowlist secret: of moto
    }
    iam = boto3.client("iam", **more)
    iam.create_user(UserName="kiln")
    iam.put_user_policy(UserName="kiln", PolicyName="all", PolicyDocument=json.dumps(POLICY))
    key = iam.create_access_key(UserName="kiln")["AccessKey"]
    place = {"LocationConstraint": REGION}
    boto3.client("s3", **more).create_bucket(Bucket="captures", CreateBucketConfiguration=place)
    _unchecked_calls(url, "0")
    yield {
        "AWS_ENDPOINT_URL": url,
        "AWS_REGION": REGION,
        "AWS_ACCESS_KEY_ID": key["AccessKeyId"],
        "AWS_SECRET_ACCESS_KEY": key["SecretAccessKey"],
    }
    _unchecked_calls(url, "Infinity")
    server.stop()


def _unchecked_calls(url: str, count: str) -> None:
    """How many calls moto takes whatever their signature."""
    more = {"content-type": "text/plain"}
    urlopen(Request(f"{url}/moto-api/reset-auth", count.encode(), more)).close()


def test_an_object_is_written_once_and_read_back(cloud: dict[str, str]) -> None:
    bucket = Bucket.from_environment("captures", "/a/b/", cloud)
    assert bucket.url == "s3://captures/a/b"
    assert bucket.create("once", b"first")
    assert bucket.create("once", b"first")  # the same again, as behind an answer that was lost
    assert not bucket.create("once", b"second")
    assert bucket.read("once") == b"first"
    bucket.delete("once")
    bucket.delete("once")
    with pytest.raises(KeyError):
        bucket.read("once")
    bucket.close()


def test_keys_of_all_kinds_are_listed_in_order_over_pages(
    cloud: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = Bucket.from_environment("captures", "pages", cloud)
    keys = sorted([f"x/{name}" for name in ("a b", "a&b", "a+b", "a%20b", "ä<>", "plain", "z=1")])
    for key in keys:
        assert bucket.create(key, key.encode())
    ask, pages = bucket._ask, 0

    def in_twos(method: str, key: Any, query: Any = None, **more: Any) -> Any:
        nonlocal pages
        pages += 1
        return ask(method, key, {**query, "max-keys": "2"}, **more)

    monkeypatch.setattr(bucket, "_ask", in_twos)
    found = bucket.entries("x/")
    assert [one.key for one in found] == keys
    assert pages == 4
    assert [one.size for one in found] == [len(key.encode()) for key in keys]
    assert all(abs(one.modified - time.time()) < 600 for one in found)
    assert [one.key for one in bucket.entries("x/", after=keys[2])] == keys[3:]
    assert bucket.entries("nothing/") == []
    monkeypatch.undo()
    assert all(bucket.read(key) == key.encode() for key in keys)
    bucket.close()


def test_a_wrong_signature_or_bucket_says_what_to_do(cloud: dict[str, str]) -> None:
    forged = Bucket.from_environment("captures", "", {**cloud, "AWS_SECRET_ACCESS_KEY": "guess"})
    with pytest.raises(StoreError, match="SignatureDoesNotMatch"):
        forged.create("a", b"a")
    other = Bucket.from_environment("another", "", cloud)
    with pytest.raises(StoreError, match="NoSuchBucket"):
        other.read("a")
    forged.close()
    other.close()


def test_a_bucket_that_nobody_serves_is_an_error_and_not_a_wait() -> None:
    environ = {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{free_port()}", "AWS_ACCESS_KEY_ID": "a"}
    bucket = Bucket.from_environment("captures", "", {**environ, "AWS_SECRET_ACCESS_KEY": "b"})
    with pytest.raises(StoreError, match="s3://captures"):
        bucket.entries("")


def test_a_connection_that_was_ended_meanwhile_is_made_anew() -> None:
    with serving(ThreadingHTTPServer(("127.0.0.1", 0), _Ends)) as url:
        environ = {"AWS_ENDPOINT_URL_S3": url, "AWS_ACCESS_KEY_ID": "a"}
        bucket = Bucket.from_environment("c", "", {**environ, "AWS_SECRET_ACCESS_KEY": "b"})
        assert [bucket.read("x") for _ in range(3)] == [b"/c/x"] * 3
        bucket.close()


def test_the_server_writes_to_a_bucket_and_finds_there_what_is_labelled(
    cloud: dict[str, str],
) -> None:
    key = "kiln_key"
    body = json.dumps({"image": base64_of(image_file(pixels()))})
    variables = {
        **cloud,
        "KILN_CAPTURE": "s3://captures/server",
        "KILN_CAPTURE_SHARE": "1",
        "KILN_CAPTURE_ROWS": "2",
        "KILN_API_KEYS": digest_of(key.encode()),
        "KILN_DEADLINE_MS": "60000",
    }
    bucket = Bucket.from_environment("captures", "server", cloud)
    with running(1, **variables) as server:

        def ask(path: str, text: str) -> tuple[int, Any]:
            return server.ask("POST", path, text, {"x-api-key": key})

        ids = [ask("/predict", body)[1]["request_id"] for _ in range(3)]
        wait_until(lambda: bucket.entries("captures/"))
        for one in ids:
            assert ask("/feedback", json.dumps({"request_id": one, "label": "cat"}))[0] == 201
        assert ask("/feedback", json.dumps({"request_id": "0" * 32, "label": "cat"}))[0] == 404
    found = Captures(bucket)
    assert sorted(row.request_id for row in found.rows()) == sorted(ids)
    assert sorted(label.request_id for label in found.labels()) == sorted(ids)
    bucket.close()


def test_a_bucket_that_is_down_for_a_while_gets_each_answer_once(
    cloud: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder_module, "_FIRST_PAUSE_S", 0.02)
    monkeypatch.setattr(recorder_module, "_LONGEST_PAUSE_S", 0.05)
    bucket = Bucket.from_environment("captures", "down", cloud)
    there, send, sent = bucket._url, bucket._send, 0

    def cut(*asked: Any) -> Any:
        """The first answer is lost on its way."""
        nonlocal sent
        answer = send(*asked)
        sent += 1
        if sent == 1:
            raise ConnectionResetError("by peer")
        return answer

    monkeypatch.setattr(bucket, "_send", cut)
    one = Recorder(lambda: bucket, "a" * 64, 1.0, 1.0, rows=2)
    exchange = Exchange(None)
    exchange.images = np.zeros((2, 4, 4, 3), np.uint8)
    exchange.probabilities = np.array([[0.9, 0.1], [0.2, 0.8]], np.float32)
    exchange.status = 200
    one(exchange, "POST", "/predict/batch")
    wait_until(lambda: one.counts.kept == 2)
    bucket.close()
    bucket._url = urlsplit(f"http://127.0.0.1:{free_port()}")  # nobody listens
    for _ in range(3):
        one(exchange, "POST", "/predict/batch")
    time.sleep(0.3)
    assert one.counts.kept == 2
    bucket._url = there
    wait_until(lambda: one.counts.kept == 8)
    one.close(5)
    rows = [row for one in bucket.entries("") for row in decode_rows(bucket.read(one.key), Capture)]
    assert len(rows) == 8
    bucket.close()


@pytest.mark.parametrize(
    ("bucket", "region", "url"),
    [
        ("kiln", "eu-central-1", "https://kiln.s3.eu-central-1.amazonaws.com"),
        ("kiln", "cn-north-1", "https://kiln.s3.cn-north-1.amazonaws.com.cn"),
        ("a.b", "eu-central-1", "https://s3.eu-central-1.amazonaws.com"),
    ],
)
def test_amazons_own_hosts(bucket: str, region: str, url: str) -> None:
    found = Bucket.from_environment(bucket, "", {"AWS_REGION": region})
    assert found._url.geturl() == url
    assert found._path == ("/a.b" if "." in bucket else "")


def test_the_url_of_a_bucket_opens_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert open_place("s3://kiln/a/b").url == "s3://kiln/a/b"
    assert open_place(f"file://{tmp_path}").url == open_place(str(tmp_path)).url == str(tmp_path)


class _Ends(BaseHTTPRequestHandler):
    """Answers, and ends the connection without saying that it will."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        body = self.path.encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = True

    def log_message(self, *_: Any) -> None:
        pass


class _Endpoint(_Ends):
    """The endpoint of a container's credentials; the path is what it says."""

    seen: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.seen.append(self.headers.get("authorization", ""))
        seconds = float(self.path.rpartition("/")[2])
        expires = datetime.fromtimestamp(time.time() + seconds, UTC)
        body = json.dumps(
            {
                "AccessKeyId": f"key-{len(self.seen)}",
                "SecretAccessKey": "secret",
                "Token": "token",  # pragma: allowlist secret: of the test
                "Expiration": expires.strftime("%Y-%m-%dT%H:%M:%SZ"),
            }
        ).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def test_credentials_are_those_of_the_variables() -> None:
    environ = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_SESSION_TOKEN": "c"}
    assert CredentialSource(environ).get() == Credentials("a", "b", "c")


def test_credentials_of_a_container_are_asked_for_anew_before_they_expire(tmp_path: Path) -> None:
    _Endpoint.seen.clear()
    token = tmp_path / "token"
    token.write_text("first\n")
    with serving(ThreadingHTTPServer(("127.0.0.1", 0), _Endpoint)) as url:
        lasting = CredentialSource({"AWS_CONTAINER_CREDENTIALS_FULL_URI": f"{url}/3600"})
        assert lasting.get() == lasting.get() == Credentials("key-1", "secret", "token")
        soon = CredentialSource(
            {
                "AWS_CONTAINER_CREDENTIALS_FULL_URI": f"{url}/60",
                "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": str(token),
            }
        )
        assert soon.get().key == "key-2"
        token.write_text("second\n")  # as EKS replaces it
        assert soon.get().key == "key-3"
    assert _Endpoint.seen == ["", "first", "second"]


def test_ecs_names_a_path_of_its_own_host(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def fetched(url: str, token: str) -> bytes:
        asked.append((url, token))
        return b'{"AccessKeyId": "a", "SecretAccessKey": "b"}'

    monkeypatch.setattr(s3_module, "_fetched", fetched)
    environ = {
        "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": "/v2/credentials/1",
        "AWS_CONTAINER_AUTHORIZATION_TOKEN": "t",
    }
    assert CredentialSource(environ).get() == Credentials("a", "b")
    assert asked == [("http://169.254.170.2/v2/credentials/1", "t")]


@pytest.mark.parametrize(
    ("environ", "named"),
    [
        ({}, "AWS_ACCESS_KEY_ID"),
        ({"AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://example.org/c"}, "http://example.org/c"),
    ],
)
def test_no_credentials_are_an_error_and_nobody_far_is_asked_in_plain(
    environ: dict[str, str], named: str
) -> None:
    with pytest.raises(StoreError, match=named):
        CredentialSource(environ).get()
