"""The service fetches nothing, whatever field or file names an address, and could not."""

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.serve.abuse.attacks import addresses, documents
from tests.serve.abuse.wire import Target, target
from tests.serve.serving import MODEL, base64_of

JSON = b"Content-Type: application/json"
FORM = b"Content-Type: multipart/form-data; boundary=b"
CLIENTS = {
    *("urllib.request", "http.client", "ftplib", "smtplib", "xmlrpc", "telnetlib"),
    *("requests", "urllib3", "httpx", "httpx2", "httpcore", "aiohttp", "botocore", "boto3", "grpc"),
    *("xml.etree", "xml.sax", "xml.dom", "lxml", "defusedxml"),  # they follow entities
}
OF_THE_OPERATOR = {
    Path("serve", *names)
    for names in (
        ("telemetry", "otlp.py"),
        ("capture", "s3.py"),
    )
}


class Bait:
    """A port that nobody should ever connect to."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.setblocking(False)
        self.port: int = self._listener.getsockname()[1]

    def was_taken(self) -> bool:
        """Whether somebody connected; the kernel takes connections while nobody accepts them."""
        try:
            self._listener.accept()[0].close()
        except BlockingIOError:
            return False
        return True

    def close(self) -> None:
        self._listener.close()


@pytest.fixture(scope="module")
def bait() -> Iterator[Bait]:
    one = Bait()
    yield one
    one.close()


@pytest.fixture(scope="module")
def server() -> Iterator[Target]:
    with target() as up:
        yield up
        up.assert_well()


def test_the_bait_works() -> None:
    bait = Bait()
    assert not bait.was_taken()
    socket.create_connection(("127.0.0.1", bait.port)).close()
    assert bait.was_taken()
    bait.close()


@pytest.mark.parametrize("name", addresses(0))
def test_an_address_is_no_image(server: Target, bait: Bait, name: str) -> None:
    url = addresses(bait.port)[name]
    one = server.ask("POST", "/predict", json.dumps({"image": url}).encode(), JSON)
    assert one.status in (415, 422)
    many = server.ask("POST", "/predict/batch", json.dumps({"images": [url]}).encode(), JSON)
    assert json.loads(many.body)["failed"] == 1
    also = server.ask("POST", "/predict", json.dumps({"url": url, "image": ""}).encode(), JSON)
    assert also.problem["status"] == 422
    assert not bait.was_taken()


@pytest.mark.parametrize("name", addresses(0))
def test_an_address_in_a_form_is_no_image(server: Target, bait: Bait, name: str) -> None:
    url = addresses(bait.port)[name].encode()
    head = b'--b\r\nContent-Disposition: form-data; name="image"; filename="' + url + b'"\r\n'
    body = head + b"Content-Location: " + url + b"\r\n\r\n" + url + b"\r\n--b--"
    assert server.ask("POST", "/predict", body, FORM).status == 415
    assert not bait.was_taken()


@pytest.mark.parametrize("name", documents(0))
@pytest.mark.parametrize("as_json", [False, True], ids=["bare", "in JSON"])
def test_a_document_that_names_an_address_is_no_image(
    server: Target, bait: Bait, name: str, as_json: bool
) -> None:
    document = documents(bait.port)[name]
    text = json.dumps({"image": base64_of(document)}).encode()
    sent = (text, JSON) if as_json else (document, b"Content-Type: image/svg+xml")
    assert server.ask("POST", "/predict", *sent).status == 415
    assert not bait.was_taken()


def test_what_answers_requests_has_loaded_no_client() -> None:
    """In a process of its own, with the application made and every module of it there."""
    program = "import sys, serve.server.server as s; s.application(); print(*sorted(sys.modules))"
    variables = {"PYTHONPATH": os.pathsep.join(sys.path), "KILN_MODEL": str(MODEL)}
    variables |= {"KILN_DRIFT_RATE": "0", "OTEL_SDK_DISABLED": "true"}
    environment = os.environ | variables
    environment.pop("COVERAGE_PROCESS_START", None)  # it would load a parser of XML
    loaded = subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert "serve.http.routes" in loaded
    clients = {one for one in loaded if one in CLIENTS or one.split(".")[0] in CLIENTS}
    assert clients <= {"http.client"}, "Starlette takes the names of statuses from there"


def test_no_module_of_the_request_path_names_a_client() -> None:
    names = "|".join(re.escape(name) for name in sorted(CLIENTS))
    import_of_one = re.compile(rf"^\s*(?:from|import)\s+(?:{names})\b", re.MULTILINE)
    # No request reaches the image's health check, which asks its own server, batch scoring, nor the
    # sender of telemetry, nor that of captures: the operator's variables name whom they ask.
    files = [
        path
        for path in sorted(Path("serve").rglob("*.py"))
        if path.parts[1] not in ("image", "score") and path not in OF_THE_OPERATOR
    ]
    assert len(files) > 20
    assert not [str(file) for file in files if import_of_one.search(file.read_text())]
