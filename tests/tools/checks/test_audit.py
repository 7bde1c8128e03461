"""The audits of locks (by the real pip-audit) and of the image, against services on loopback."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from common.programs import serving
from tools.checks.audit import main, package_urls

AUDIT = str(Path(os.environ["AUDIT"]).absolute())
LOCK = f"good==1.0 \\\n    --hash=sha256:{'0' * 64}\nbad==2.0 \\\n    --hash=sha256:{'1' * 64}\n"


class Advisories(BaseHTTPRequestHandler):
    """Speaks OSV's protocol; knows one advisory."""

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        known = asked["package"]["name"] == "bad"
        advisory = {
            "id": "PYSEC-1",
            "summary": "it is bad",
            "affected": [
                {
                    "package": {"name": "bad", "ecosystem": "PyPI"},
                    "ranges": [{"type": "ECOSYSTEM", "events": [{"fixed": "2.1"}]}],
                }
            ],
        }
        body = json.dumps({"vulns": [advisory]} if known else {}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Silent."""


@pytest.fixture
def service() -> Iterator[str]:
    with serving(ThreadingHTTPServer(("127.0.0.1", 0), Advisories)) as url:
        yield f"{url}/v1/query"


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    (tmp_path / "lock.txt").write_text(LOCK)
    accept(tmp_path, "")
    return tmp_path


def accept(workspace: Path, text: str) -> None:
    place = workspace / "tools/checks/accepted.toml"
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(text)


def audit(workspace: Path, url: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "BUILD_WORKSPACE_DIRECTORY": str(workspace),
        "HOME": str(workspace),
        "NO_PROXY": "*",
    }
    command = [AUDIT, "--service=osv", "--osv-url", url, "--lock=lock.txt", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def test_a_vulnerable_package_fails_the_audit_and_names_the_fix(
    workspace: Path, service: str
) -> None:
    done = audit(workspace, service)
    assert done.returncode == 1, done.stderr
    assert {"bad", "2.0", "PYSEC-1", "2.1"} <= set(re.findall(r"[\w.-]+", done.stdout))
    assert "good" not in done.stdout


def test_an_accepted_advisory_passes_and_is_told_with_its_reason(
    workspace: Path, service: str
) -> None:
    accept(workspace, '["PYSEC-1"]\nreason = "never called"\nuntil = 9999-01-01\n')
    done = audit(workspace, service)
    assert done.returncode == 0, done.stderr
    assert "never called" in done.stdout


def test_acceptance_ends_on_its_last_day(workspace: Path, service: str) -> None:
    accept(workspace, '["PYSEC-1"]\nreason = "never called"\nuntil = 2020-01-01\n')
    assert audit(workspace, service).returncode == 1


def test_acceptance_without_a_reason_is_bad_input(workspace: Path, service: str) -> None:
    accept(workspace, '["PYSEC-1"]\nuntil = 9999-01-01\n')
    done = audit(workspace, service)
    assert done.returncode == 2
    assert {"PYSEC-1", "reason"} <= set(done.stderr.split())


def test_a_service_out_of_reach_is_no_clean_bill(workspace: Path) -> None:
    done = audit(workspace, "http://127.0.0.1:1/v1/query")
    assert done.returncode == 3


def test_the_answer_comes_as_json_too(workspace: Path, service: str) -> None:
    done = audit(workspace, service, "--json")
    [one] = json.loads(done.stdout)
    assert one["asked"] == 2
    assert [found["advisory"] for found in one["vulnerabilities"]] == ["PYSEC-1"]


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
