"""The picture of the dashboards: what it shows, and what it says when it cannot."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from PIL import Image
from rich.console import Console

from common.programs import free_port, serving
from infra.observability import picture
from infra.observability.catalogue import load
from infra.observability.dashboards import dashboards


class _Prometheus(BaseHTTPRequestHandler):
    """Answers every range with two series of ten values, one of them infinite."""

    asked: list[str] = []  # noqa: RUF012  # of the whole test

    def log_message(self, *arguments: object) -> None:
        """Silent."""

    def do_GET(self) -> None:
        parameters = parse_qs(urlsplit(self.path).query)
        self.asked.append(parameters["query"][0])
        start = float(parameters["start"][0])
        series = [
            {"metric": {"http_route": name}, "values": [[start + i, value] for i in range(10)]}
            for name, value in (("/predict", "1.5"), ("/health", "+Inf"))
        ]
        body = json.dumps({"status": "success", "data": {"result": series}}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def prometheus() -> Iterator[str]:
    _Prometheus.asked.clear()
    with serving(ThreadingHTTPServer(("127.0.0.1", 0), _Prometheus)) as url:
        yield url


def run(*arguments: str) -> tuple[int, str]:
    console = Console(record=True, width=200, file=io.StringIO())
    return picture.main(arguments, console), console.export_text()


def test_all_panels_of_a_dashboard_are_asked_for_and_drawn(prometheus: str, tmp_path: Path) -> None:
    output = tmp_path / "drift.png"
    code, said = run(f"--prometheus={prometheus}", "--dashboard=kiln-drift", f"--output={output}")
    assert code == 0, said
    with Image.open(output) as image:
        assert image.width > 1000
    drift = next(one for one in dashboards(load()) if one.uid == "kiln-drift")
    expected = [drift.filled(q.expression) for panel in drift.panels for q in panel.queries]
    assert _Prometheus.asked == expected
    assert not any("$" in promql for promql in expected)


def test_the_overview_has_panels_of_several_dashboards(prometheus: str, tmp_path: Path) -> None:
    assert run(f"--prometheus={prometheus}", f"--output={tmp_path / 'a.png'}")[0] == 0
    overview = picture.chosen([])
    assert len({dashboard.uid for dashboard, _ in overview}) >= 4
    assert len(_Prometheus.asked) >= len(overview)


def test_without_a_prometheus_it_says_how_to_start_one(tmp_path: Path) -> None:
    output = tmp_path / "none.png"
    code, said = run(f"--prometheus=http://127.0.0.1:{free_port()}", f"--output={output}")
    assert code == picture.BAD_INPUT
    assert "bazel run //infra:observability" in said
    assert not output.exists()
