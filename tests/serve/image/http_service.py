"""The image as a plain container that answers HTTP."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from common.programs import free_port
from infra.twin.image.container import Container, Root, running

_START_S = 120.0  # on a busy machine


@dataclass
class Service:
    container: Container
    address: str

    def request(self, path: str, body: Any = None) -> tuple[int, Any]:
        """Status and parsed JSON; a body is sent as JSON."""
        request = Request(self.address + path, method="GET" if body is None else "POST")
        if body is not None:
            request.data = json.dumps(body).encode()
            request.add_header("Content-Type", "application/json")
        try:
            with urlopen(request, timeout=60) as answer:
                return answer.status, json.load(answer)
        except HTTPError as error:
            return error.code, json.load(error)


@contextmanager
def serving(
    root: Root, environment: Mapping[str, str] | None = None, **options: Any
) -> Iterator[Service]:
    """The server of an image, ready, on a free port."""
    port = free_port()
    variables = {"KILN_HOST": "127.0.0.1", "KILN_PORT": str(port), **(environment or {})}
    with running(root, variables, **options) as container:
        service = Service(container, f"http://127.0.0.1:{port}")
        _wait_until_ready(service)
        yield service


def _wait_until_ready(service: Service) -> None:
    for _ in range(int(_START_S / 0.02)):
        try:
            if service.request("/ready")[0] == 200:
                return
        except URLError:
            pass
        if service.container.process.poll() is not None:
            break
        time.sleep(0.02)
    raise TimeoutError("the server did not become ready")
