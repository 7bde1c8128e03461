"""The image's own bill of materials, against a service on loopback that speaks OSV's protocol."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from common.programs import serving
from tools.checks.audit import main, package_urls

SBOM = str(Path(os.environ["SBOM"]).absolute())
ASKED: list[str] = []


class Osv(BaseHTTPRequestHandler):
    """Knows one advisory, about NumPy; at /short it forgets an answer."""

    def do_POST(self) -> None:
        queries = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["queries"]
        urls = [query["package"]["purl"] for query in queries]
        ASKED.extend(urls)
        results: list[dict[str, Any]] = [
            {"vulns": [{"id": "PYSEC-1"}]} if url.startswith("pkg:pypi/numpy@") else {}
            for url in urls
        ]
        if self.path == "/short":
            results.pop()
        body = json.dumps({"results": results}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Silent."""


@pytest.fixture
def osv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    ASKED.clear()
    accept(tmp_path, "")
    monkeypatch.setenv("BUILD_WORKSPACE_DIRECTORY", str(tmp_path))
    with serving(ThreadingHTTPServer(("127.0.0.1", 0), Osv)) as url:
        yield url


def accept(workspace: Path, text: str) -> None:
    place = workspace / "tools/checks/accepted.toml"
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(text)


def test_every_package_of_the_image_is_asked_about_and_a_known_advisory_fails(
    osv: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([f"--sbom={SBOM}", f"--osv={osv}"]) == 1
    assert "pkg:pypi/numpy@" in capsys.readouterr().out
    assert {url.partition("/")[0] for url in ASKED} >= {"pkg:deb", "pkg:pypi"}


def test_an_accepted_advisory_passes(
    osv: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    accept(tmp_path, '["PYSEC-1"]\nreason = "never called"\nuntil = 9999-01-01\n')
    assert main([f"--sbom={SBOM}", f"--osv={osv}", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["accepted"] == "never called"


def test_a_service_out_of_reach_or_short_of_answers_is_no_clean_bill(osv: str) -> None:
    assert main([f"--sbom={SBOM}", "--osv=http://127.0.0.1:1"]) == 3
    assert main([f"--sbom={SBOM}", f"--osv={osv}/short"]) == 3


def test_parts_of_parts_are_packages_too() -> None:
    inner = {"purl": "pkg:pypi/b@1"}
    assert package_urls({"components": [{"purl": "pkg:pypi/a@1", "components": [inner]}, {}]}) == [
        "pkg:pypi/a@1",
        "pkg:pypi/b@1",
    ]
