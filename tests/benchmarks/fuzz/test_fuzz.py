"""benchmarks/fuzz: the real server holds, and one that does not is found out."""

import io
import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import find, given, settings
from PIL import Image

from benchmarks.fuzz.main import Findings, fuzz
from benchmarks.fuzz.requests import WHOLE, files, lying_pngs
from common.programs import serving
from common.terminal import Progress
from tests.benchmarks.programs import progress, run
from tests.serve.serving import MODEL


def test_the_service_answers_as_its_document_says(tmp_path: Path) -> None:
    target = tmp_path / "fuzz.json"
    done = run(
        *("benchmarks.fuzz.main", "--model", str(MODEL)),
        *("--cases", "150", "--seed", "1", "--json", str(target)),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(progress(done.stderr, "fuzzing")) >= 4
    found = json.loads(target.read_text())
    assert found["holds"]
    assert found["cases"] >= 150
    assert {"200", "422"} <= set(found["by_status"])
    assert len(found["by_family"]) == 14


class Broken(BaseHTTPRequestHandler):
    """Serves the right document and answers everything else by an error that is in none."""

    def do_GET(self) -> None:
        document = Path("serve/site/openapi.json").read_bytes()
        self._say(200 if self.path == "/openapi.json" else 500, document)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("content-length", 0)))
        self._say(500, b"oh")

    def _say(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def broken() -> Iterator[str]:
    with serving(ThreadingHTTPServer(("127.0.0.1", 0), Broken)) as url:
        yield url


def test_a_service_that_fails_is_found_out_in_every_kind_of_request(broken: str) -> None:
    findings = fuzz(broken, 30, 0, Progress("fuzzing", 30))
    assert not findings.hold
    assert {failure.partition(": ")[0] for failure in findings.failures} == set(findings.by_family)
    assert "curl" in findings.failures[0]
    assert "Server error" in findings.failures[0]


def test_a_line_in_the_log_is_a_failure() -> None:
    assert Findings(cases=12).hold
    assert not Findings(cases=12, complaints=["request failed"]).hold


@settings(max_examples=100, derandomize=True, database=None, deadline=None)
@given(WHOLE)
def test_whole_files_are_images(data: bytes) -> None:
    with Image.open(io.BytesIO(data)) as image:
        image.load()


def test_files_are_whole_and_broken_and_some_lie() -> None:
    assert find(files(), lambda file: file.is_whole)
    assert find(files(), lambda file: not file.is_whole and file.data[:2] == b"BM")
    huge = (100_000).to_bytes(4)
    assert find(lying_pngs(), lambda data: data[16:20] == huge)
