"""A web server on the loopback interface that serves bytes, or misbehaves as a test asks."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from common.programs import serving


@dataclass(frozen=True)
class Response:
    """A body; its header may claim another length, and it may come only when the server stops."""

    body: bytes
    claimed: int | None = None
    waits: bool = False
    asked: threading.Event = field(default_factory=threading.Event)


@contextmanager
def serve(answers: Mapping[str, Response | bytes]) -> Iterator[str]:
    """Serve ``answers`` by path, 404 for others; gives the address without a trailing slash."""
    stopping = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer = answers.get(self.path)
            if answer is None:
                self.send_error(404)
                return
            if isinstance(answer, bytes):
                answer = Response(answer)
            answer.asked.set()
            if answer.waits:
                stopping.wait(30)
            self.send_response(200)
            claimed = len(answer.body) if answer.claimed is None else answer.claimed
            self.send_header("Content-Length", str(claimed))
            self.end_headers()
            self.wfile.write(answer.body)

        def log_message(self, format: str, *args: object) -> None:
            """Tests print nothing."""

    with serving(ThreadingHTTPServer(("127.0.0.1", 0), Handler)) as url:
        try:
            yield url
        finally:
            stopping.set()
