"""The least that any Python service does for a prediction, to tell how much is left to gain.

An event loop decodes the image and runs the model on what arrived together, as Kiln does, with
nothing around it: no HTTP beyond the body's length, no checks, no telemetry, and a response of
one number. Its speed bounds every service with the same codec and model from above.
"""

import asyncio
import base64
import os
import re
import socket
from pathlib import Path
from typing import Any

import numpy as np
import uvloop

from common.images import Codec
from serve.inference.predictor import Predictor

_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
_MOST = 16  # images at once, as in serve/inference/predictor.py


class _Loop:
    """Images that arrived together, and the model that runs on them."""

    def __init__(self, model: Path) -> None:
        self._predict = Predictor.load(model)
        self.decode = Codec(self._predict.metadata.input_size, max_pixels=2**20).decode
        self._waiting: list[tuple[Any, Any]] = []

    def add(self, transport: Any, pixels: Any) -> None:
        if not self._waiting:
            asyncio.get_running_loop().call_soon(self._run)
        self._waiting.append((transport, pixels))

    def _run(self) -> None:
        now, self._waiting = self._waiting[:_MOST], self._waiting[_MOST:]
        rows = self._predict(np.stack([pixels for _, pixels in now]))
        for (transport, _), row in zip(now, rows, strict=True):
            body = b'{"index": %d}' % row.argmax()
            transport.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
        if self._waiting:
            asyncio.get_running_loop().call_soon(self._run)


class _Connection(asyncio.Protocol):
    def __init__(self, model: _Loop) -> None:
        self._model, self._received = model, b""
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, _, body = self._received.partition(b"\r\n\r\n")
        length = _LENGTH.search(head)
        if length and len(body) >= int(length[1]):
            self._received = b""
            image = base64.b64decode(body[body.index(b":") + 1 :].strip(b' "}'))
            self._model.add(self._transport, self._model.decode(image))


async def _serve(listener: socket.socket, model: Path) -> None:
    loop = _Loop(model)
    server = await asyncio.get_running_loop().create_server(
        lambda: _Connection(loop), sock=listener
    )
    await server.serve_forever()


def main() -> None:
    """Serves FLOOR_MODEL on FLOOR_PORT in FLOOR_WORKERS processes until it is ended."""
    model, port = Path(os.environ["FLOOR_MODEL"]), int(os.environ["FLOOR_PORT"])
    for _ in range(int(os.environ["FLOOR_WORKERS"]) - 1):
        if not os.fork():
            break
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.bind(("127.0.0.1", port))
    uvloop.run(_serve(listener, model))


if __name__ == "__main__":
    main()
